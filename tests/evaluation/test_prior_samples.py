from diffusers import DDIMScheduler

from benchmarks.untrained_sd import TINY, untrained_stable_diffusion
from evaluation.prior_samples import fingerprint


def test_a_fingerprint_follows_the_weights_and_the_schedule_and_nothing_else():
    pipeline = untrained_stable_diffusion(TINY, "v_prediction", 0)
    first = fingerprint(pipeline)
    assert len(first) == 8 and fingerprint(untrained_stable_diffusion(TINY, "v_prediction", 0)) == first
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, beta_end=0.013)
    assert fingerprint(pipeline) != first, "other noise gives other samples"
    other = untrained_stable_diffusion(TINY, "v_prediction", 0)
    next(other.unet.parameters()).data[0] += 0.5
    assert fingerprint(other) != first
