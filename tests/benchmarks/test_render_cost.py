from benchmarks.render_cost import main


def test_chunks_keep_less_memory_for_the_same_samples(capsys):
    main(["--size", "24", "--chunks", "0", "64"])
    plain, chunked = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]
    )
    assert (plain[0], chunked[0]) == ("all", "64") and plain[1] == chunked[1] != "0"
    assert float(chunked[2]) > 0 and float(chunked[3]) < 0.1 * float(plain[3])
