"""Finds a sheet of paper in a darker scene, and the frames that are printed on it."""

import numpy as np
from scipy import ndimage

_SIDE = 128  # pixels: pictures are reduced to this before a sheet is looked for
_MIN_CONTRAST = 0.12  # in brightness, between a sheet and the scene around it
_AREAS = (0.1, 0.9)  # range of a sheet's area, as a fraction of the picture
_MAX_BORDER = 0.25  # largest fraction of the picture's border that shows the sheet
_MIN_RECTANGLE = 0.85  # smallest fraction that a sheet fills of the rectangle around it; an ellipse fills 0.79
_MIN_EMPTY = 0.7  # smallest fraction of a sheet without ink; of a thick, filled 0 the strokes take less
_MAX_FRAME = 0.25  # largest fraction that the lines of a frame fill of its box
_MIN_FRAME = 12  # pixels: the smallest side of a frame, around a digit of half of that
_STRAIGHT = 0.8  # smallest fraction of a frame that lies on long horizontal and vertical lines


def otsu(values: np.ndarray) -> tuple[float, float]:
    """Returns the threshold of Otsu (1979) between low and high values from 0 on, and the distance of their means."""
    counts, edges = np.histogram(values, 256, (0, max(float(values.max()), 1e-6)))
    levels = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = values.size - below
    sums = np.cumsum(counts * levels)
    means_below, means_above = sums / np.maximum(below, 1), (sums[-1] - sums) / np.maximum(above, 1)
    best = int(np.argmax(below * above * (means_above - means_below) ** 2))
    return float(edges[best + 1]), float(means_above[best] - means_below[best])


def find_sheet(pixels: np.ndarray) -> np.ndarray | None:
    """Returns a mask `[H, W]` of a bright rectangle with ink on it, in a darker scene; None if there is none.

    `pixels` are those of a `Picture`. The mask leaves out the sheet's edge. The rectangle may be seen at an angle.
    """
    height, width = pixels.shape[:2]
    step = max(1, max(height, width) // _SIDE)
    if min(height, width) < 16 * step or pixels[..., 3].min() < 1:
        return None
    brightness = ndimage.uniform_filter(pixels[..., :3].mean(axis=-1), step)[::step, ::step]
    threshold, contrast = otsu(brightness)
    labels, count = ndimage.label(brightness > threshold)
    if not count or contrast < _MIN_CONTRAST:
        return None
    paper = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    sheet = ndimage.binary_fill_holes(paper)
    edges = np.concatenate([sheet[0], sheet[-1], sheet[:, 0], sheet[:, -1]])
    if (
        not _AREAS[0] <= sheet.mean() <= _AREAS[1]
        or edges.mean() > _MAX_BORDER
        or not _MIN_EMPTY <= paper.sum() / sheet.sum() < 1
        or sheet.sum() / _rectangle_area(sheet) < _MIN_RECTANGLE
    ):
        return None
    inside = ndimage.binary_erosion(sheet, iterations=3)
    return np.repeat(np.repeat(inside, step, axis=0), step, axis=1)[:height, :width]


def _rectangle_area(mask: np.ndarray) -> float:
    """Returns the area of the smallest rectangle, at any angle, around a mask; one of its sides lies on the hull's."""
    from scipy.spatial import ConvexHull  # late: few pictures have something like a sheet

    points = np.argwhere(mask & ~ndimage.binary_erosion(mask)).astype(float)
    corners = points[ConvexHull(points).vertices]
    sides = np.roll(corners, -1, axis=0) - corners
    units = sides / np.linalg.norm(sides, axis=1, keepdims=True)
    normals = np.stack([-units[:, 1], units[:, 0]], axis=1)
    lengths, widths = (np.ptp(corners @ axes.T, axis=0) + 1 for axes in (units, normals))
    return float((lengths * widths).min())


def without_frames(mask: np.ndarray) -> np.ndarray:
    """Returns an ink mask `[H, W]` without the frames around other ink, such as the boxes of a form."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    kept = mask.copy()
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        if min(rows.stop - rows.start, columns.stop - columns.start) < _MIN_FRAME:
            continue
        frame = labels[rows, columns] == label
        others = mask[rows, columns] & ~frame
        if frame.mean() < _MAX_FRAME and others[1:-1, 1:-1].sum() > 0 and _is_straight(frame):
            kept[rows, columns] &= ~frame
    return kept


def _is_straight(shape: np.ndarray) -> bool:
    """Returns whether most of a shape lies on lines along most of its height or width."""
    thick = ndimage.binary_dilation(shape, np.ones((3, 3)))  # lines may be slightly tilted
    rows, columns = thick.mean(axis=1) > 0.7, thick.mean(axis=0) > 0.7
    return bool(shape[rows[:, None] | columns].sum() >= _STRAIGHT * shape.sum())
