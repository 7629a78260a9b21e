# The three stages of Stable Diffusion, one after the other. The other files of this folder source it, in the root of the
# repository, and set:
#   launch     array, the command that starts the processes of `vsd`
#   prompt     what to make
#   run        folder of the whole run, on a file system that all nodes see; each stage gets a folder in it
#   nodes      number of nodes
#   devices    GPUs of each, as many processes
#   particles  number of objects (default: one per GPU, each of which makes all the steps of its schedule)
#   preset     the stages' files, configs/PRESETnerf.yaml and so on: "" or "paper/", "threestudio/" (default: "")
#   options    array, of every stage's `vsd fit`
# A stage that has ended leaves RUN/STAGE/finished and is not run again. One that has not is resumed where SLURM or
# torchrun have started it again, and refused where the script was started by hand: then say resume=1.

stage() {
    local name=$1 again=()
    shift
    [ -e "$run/$name/finished" ] && return
    [ -n "${resume:-}" ] && [ -d "$run/$name/checkpoints" ] && again=(--ckpt_path last)
    "${launch[@]}" vsd fit -c "configs/${preset:-}$name.yaml" -c configs/cluster/strategy.yaml \
        -c configs/loggers/wandb.yaml --prompt "$prompt" --model.particles "${particles:-$((nodes * devices))}" \
        --trainer.num_nodes "$nodes" --trainer.devices "$devices" --trainer.default_root_dir "$run/$name" \
        "$@" "${options[@]}" "${again[@]}"
    touch "$run/$name/finished"
}

stages() {
    stage nerf
    stage geometry --model.nerf "$run/nerf"
    stage texture --model.nerf "$run/nerf" --model.geometry "$run/geometry"
}
