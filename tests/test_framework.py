"""Figure 1 as it will be printed: size, legibility, nothing on top of anything else."""

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch

from mlu_utils.results.figures import framework_diagram


@pytest.fixture(scope="module")
def drawn():
    """Return the figure, its texts with their extents in pixels, and the extents of its boxes and bands."""
    figure = framework_diagram()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    ax = figure.axes[0]
    texts = [text for text in ax.texts if text.get_text()]
    extents = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    frames = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    return figure, list(zip(texts, extents, strict=True)), frames


def test_it_is_as_wide_as_the_page_and_no_text_is_below_seven_points(drawn):
    figure, texts, _ = drawn
    assert figure.get_figwidth() == pytest.approx(17 / 2.54)
    assert min(text.get_fontsize() for text, _ in texts) >= 7


def test_no_text_touches_another_or_leaves_the_page(drawn):
    figure, texts, _ = drawn
    assert len(texts) > 40
    for _, extent in texts:
        assert figure.bbox.x0 < extent.x0 and extent.x1 < figure.bbox.x1
        assert figure.bbox.y0 < extent.y0 and extent.y1 < figure.bbox.y1
    for (first, a), (second, b) in itertools.combinations(texts, 2):
        # Lines of one box may share the empty rows above and below their letters.
        is_apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 + 2 or b.y1 <= a.y0 + 2
        assert is_apart, f"{first.get_text()!r} and {second.get_text()!r} overlap"


def test_every_text_lies_inside_the_box_or_band_that_its_middle_lies_in(drawn):
    _, texts, frames = drawn
    for text, extent in texts:
        x, y = (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2
        around = [frame for frame in frames if frame.x0 < x < frame.x1 and frame.y0 < y < frame.y1]
        if around:
            inner = min(around, key=lambda frame: frame.width * frame.height)
            assert inner.x0 <= extent.x0 and extent.x1 <= inner.x1, f"{text.get_text()!r} leaves its box"
            assert inner.y0 <= extent.y0 and extent.y1 <= inner.y1, f"{text.get_text()!r} leaves its box"


def test_it_names_each_step_of_the_framework(drawn):
    _, texts, _ = drawn
    words = " ".join(text.get_text() for text, _ in texts)
    for step in ("Deletion request", "Forget loss", "Retain loss", "WF", "WP", "forget set", "three zones", "clamped"):
        assert step in words
    for step in ("Unlearned", "AIA", "MIA", "relearning", "Retrain"):
        assert step in words
