"""All measures of a set of pictures against the truth of its prompt, in one place.

| measure        | asks                                          | aim      | fault that it is meant for            |
|----------------|-----------------------------------------------|----------|---------------------------------------|
| part_recall    | are the parts there that the truth shows      | 1        | a part that is missing                |
| false_parts    | parts per view where the truth shows none     | 0        | parts in wrong places                 |
| janus          | wrong views in which the front's parts show   | 0        | two fronts                            |
| wrong_views    | views that look like another sector           | 0        | left and right exchanged              |
| sharpness      | gradient in the object over the truth's       | 1        | blur (below 1), noise (above 1)       |
| patch_distance | patches of three scales against the truth's   | truth's  | blur and noise                        |
| kid            | features against the truth's, as distributions| 0        | whatever the others overlook          |
| diversity      | distance between objects over the truth's     | 1        | one object many times                 |
| coverage       | spread of sizes and proportions               | 1        | one object many times                 |
| truth_score    | L1 to the nearest instance                    | 1        | a wrong shape; blind to blur          |
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from evaluation.diversity import coverage, diversity
from evaluation.kid import kid
from evaluation.parts import false_parts, found_in, janus_rate, part_recall, shown_by
from evaluation.patches import patch_distance
from evaluation.pictures import INSTANCES, Pictures, Truth, sector_instances, true_instances
from evaluation.sharpness import sharpness_ratio
from evaluation.truth_distance import INSTANCES as NEAREST_OF
from evaluation.truth_distance import VIEWS as LOOK_VIEWS
from evaluation.truth_distance import Look, nearest, scale, true_looks
from scene.cameras import Orbit
from toybox.judges.parts import PartsJudge
from toybox.judges.parts_training import parts_judge
from toybox.judges.views import ViewClassifier, cached_view_classifier
from toybox.world.captions import VIEWS
from toybox.world.objects import WITH_FRONT
from toybox.world.renders import load_renders

VIEW_TRAIN = 12288  # renders that the view judge is trained on
VIEW_STEPS = 900  # of its training


@dataclass(frozen=True)
class Judges:
    """The networks, trained on truth alone, that the measures of an object ask.

    Args:
        parts: Finds its parts, and gives features.
        views: Tells azimuth sectors; None for an object without a front.
    """

    parts: PartsJudge
    views: ViewClassifier | None


def load_judges(name: str) -> Judges:
    """The judges of an object from the cache folder, or new ones, put there; some minutes the first time.

    Args:
        name: A key of OBJECTS.

    Returns:
        The judges.
    """
    fronted = name in WITH_FRONT
    return Judges(parts_judge(name), cached_view_classifier(load_renders(VIEW_TRAIN), VIEW_STEPS) if fronted else None)


@dataclass(frozen=True)
class Figures:
    """The measures of a set of pictures; None for what does not apply. See the module's table.

    Args:
        part_recall: In [0, 1]; None for an object without named parts.
        false_parts: Mean number per view.
        janus: In [0, 1]; None for an object whose front has no part of its own.
        wrong_views: In [0, 1]; None for an object without a front.
        sharpness: Ratio.
        patch_distance: In standard deviations of the truth's patches; None for an empty picture.
        kid: Squared MMD to the truth.
        kid_error: Its standard error.
        diversity: Ratio; None for one object.
        coverage: Ratio; None for one object.
        truth_score: At most about 1; None where a look is not complete.
    """

    part_recall: float | None
    false_parts: float | None
    janus: float | None
    wrong_views: float | None
    sharpness: float | None
    patch_distance: float | None
    kid: float | None
    kid_error: float | None
    diversity: float | None
    coverage: float | None
    truth_score: float | None


COLUMNS = tuple(field.name for field in fields(Figures))


class Yardstick:
    """Holds sets of pictures against the truth of one object, colour and set of cameras.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        cameras: V cameras; eight of a look, or the one of a 2D run.
        judges: What is asked.
    """

    def __init__(self, name: str, colour: str, cameras: Orbit, judges: Judges):
        self.name, self.colour, self.cameras, self.judges = name, colour, cameras, judges
        self.truth = truth_for(name, colour, cameras)
        self.shown = shown_by(self.truth)

    def measure(self, pictures: Pictures, whole_looks: bool = True) -> Figures:
        """All measures of a set.

        Args:
            pictures: N objects in V views.
            whole_looks: Whether the views of an object are of one instance, which the L1 truth score needs.

        Returns:
            The figures.
        """
        real = self.truth.over(pictures.background)
        found = found_in(pictures, self.judges.parts)
        distance = kid(*(features_of(p, self.judges.parts) for p in (pictures, real)))
        return Figures(
            part_recall=part_recall(found, self.shown),
            false_parts=false_parts(found, self.shown),
            janus=janus_rate(found, self.shown),
            wrong_views=self.wrong_views(pictures),
            sharpness=sharpness_ratio(pictures, real),
            patch_distance=patch_distance(pictures, real),
            kid=distance.value if distance else None,
            kid_error=distance.error if distance else None,
            diversity=diversity(pictures, real),
            coverage=coverage(pictures, real),
            truth_score=self.truth_score(pictures) if whole_looks else None,
        )

    @torch.no_grad()
    def wrong_views(self, pictures: Pictures) -> float | None:
        """The fraction of the views that the view judge takes for another sector's.

        Args:
            pictures: N objects in V views.

        Returns:
            In [0, 1]; None for an object without a front, and for cameras from overhead.
        """
        sector = VIEWS.index(self.cameras.azimuth, self.cameras.elevation)  # (V,)
        if self.judges.views is None or (sector >= len(VIEWS.sectors)).any():
            return None
        seen = self.judges.views(pictures.network_images()).argmax(1).unflatten(0, pictures.rgb.shape[:2])
        return float((seen != sector).float().mean())

    def truth_score(self, pictures: Pictures) -> float | None:
        """The mean L1 truth score of the objects (see `evaluation.truth_distance`).

        Args:
            pictures: N objects in the eight views of a look, over white.

        Returns:
            1 for a true instance, 0 for another object; None for other cameras.
        """
        distance, fovy = float(self.cameras.distance[0]), float(self.cameras.fovy[0])
        if len(self.cameras) != LOOK_VIEWS:
            return None
        where = (distance, fovy, pictures.rgb.shape[-1])
        truth, ends = true_looks(self.name, self.colour, NEAREST_OF, 0, *where), scale(self.name, self.colour, *where)
        looks = [Look(_channels_last(p), mask) for p, mask in zip(pictures.rgb, pictures.mask, strict=True)]
        return sum(ends.score(nearest(look, truth)[0]) for look in looks) / len(looks)


def features_of(pictures: Pictures, judge: PartsJudge) -> Tensor:
    """The judge's features of a set.

    Args:
        pictures: N objects in V views.
        judge: Of parts.

    Returns:
        (N, V, D).
    """
    return judge.features(pictures.network_images()).unflatten(0, pictures.rgb.shape[:2])


def _channels_last(rgb: Tensor) -> Tensor:
    return rgb.permute(0, 2, 3, 1)


def truth_for(name: str, colour: str, cameras: Orbit, count: int = INSTANCES, first: int = 0) -> Truth:
    """The true instances that pictures by some cameras are held against.

    Args:
        name: A key of OBJECTS.
        colour: A key of COLOURS.
        cameras: The V cameras of a look, or one camera, which stands for its azimuth sector.
        count: How many instances.
        first: The first one's number.

    Returns:
        The instances.
    """
    if len(cameras) == 1:
        sector = int(VIEWS.index(cameras.azimuth, torch.zeros(1)))
        return sector_instances(name, colour, sector, count, first)
    return true_instances(name, colour, count, first, len(cameras), float(cameras.distance[0]), float(cameras.fovy[0]))
