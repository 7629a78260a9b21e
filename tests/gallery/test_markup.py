from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from gallery.markup import Markup, address, element, join, table

HOSTILE = "<script>alert(1)</script>\"'&"


def test_text_and_attributes_are_escaped_and_markup_is_not():
    assert join(HOSTILE, Markup("<b>")) == "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;<b>"
    seen = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, attrs))

        def handle_data(self, data):
            seen.append(data)

    reader = Reader()
    reader.feed(element("p", HOSTILE, title=HOSTILE))
    reader.close()
    assert seen[0] == ("p", [("title", HOSTILE)]) and "".join(seen[1:]) == HOSTILE


def test_children_may_be_nested_and_none_is_left_out():
    assert element("p", "a", None, ["b", [element("i", "c"), None]]) == "<p>ab<i>c</i></p>"


def test_attributes_lose_underscores_and_false_ones_are_dropped():
    box = element("input", type="checkbox", aria_label="x", class_="y", checked=True, hidden=False, title=None)
    assert box == '<input type="checkbox" aria-label="x" class="y" checked>'


def test_a_table_has_heads_for_columns_and_rows():
    rows = table(["run", "loss"], [["a", "1"], ["b", "2"]], "Runs")
    assert rows.count('scope="col"') == 2 and rows.count('scope="row"') == 2 and rows.count("<td>") == 2
    assert "<caption>Runs</caption>" in rows and "class" not in rows.partition("<table>")[2]


def test_a_long_cell_is_marked():
    assert '<td class="long">' in table(["run", "prompt"], [["a", 100 * "x"]], "Runs")


@pytest.mark.parametrize("name", ["a b#1?.png", 'x" onerror="y.png', "javascript:alert(1)", "größe.png"])
def test_addresses_are_relative_and_quoted(tmp_path, name):
    link = address(tmp_path / "runs" / name, tmp_path / "page")
    assert link.startswith("../runs/") and unquote(link) == f"../runs/{name}"
    assert not set(link) & set('"<> #?:')


def test_a_file_beside_the_page_is_no_scheme(tmp_path):
    assert ":" not in address(tmp_path / "javascript:alert(1)", tmp_path)
