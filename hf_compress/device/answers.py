"""What a script beside a deployed file says of a picture, by the Hub's name of the task.

Of each task the last function says it; all stand alone, for that script. `outputs` are those of the file for one
picture by name, `labels` the names of the classes, `picture` is uint8 (height, width, 3).
"""

import numpy as np
from PIL import Image

CLASSIFIES, SEGMENTS, DETECTS = "image-classification", "image-segmentation", "object-detection"
SEES_DEPTH = "depth-estimation"


def class_shares(logits):
    """Return the probability of each class, of logits (classes,)."""
    shares = np.exp(logits - logits.max(), dtype=float)
    return shares / shares.sum()


def say_class(name, picture, outputs, labels):
    """Print the most probable class and its probability."""
    logits = outputs["logits"][0]
    best = int(logits.argmax())
    print(f"{name}\t{labels[best]}\t{class_shares(logits)[best]:.4f}")


def between(length, size):
    """Return for each of `size` pixels the two of `length` that it lies between, and the share of the second."""
    place = np.maximum((np.arange(size) + 0.5) * length / size - 0.5, 0)
    first = place.astype(int)
    return first, np.minimum(first + 1, length - 1), (place - first).astype(np.float32)


def class_of_pixels(logits, height, width):
    """Return the class of every pixel, uint8 (height, width), of logits (classes, rows, columns): bilinear between."""
    left, right, share = between(logits.shape[2], width)
    wide = logits[:, :, left] * (1 - share) + logits[:, :, right] * share
    above, below, share = between(logits.shape[1], height)
    classes = np.empty((height, width), np.uint8)
    for row in range(height):  # all at once might not fit into the memory
        line = wide[:, above[row]] * (1 - share[row]) + wide[:, below[row]] * share[row]
        classes[row] = line.argmax(axis=0)
    return classes


def write_classes(classes, file):
    """Write the classes of pixels as a PNG whose numbers they are, each in a colour of its own."""
    image = Image.fromarray(classes)
    image.putpalette(np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8).tobytes())
    image.save(file)


def say_pixels(name, picture, outputs, labels):
    """Write a PNG beside the picture whose numbers are the classes of its pixels; print its name and their shares."""
    classes = class_of_pixels(outputs["logits"][0], *picture.shape[:2])
    write_classes(classes, f"{name}.classes.png")
    counts = np.bincount(classes.ravel())
    shares = [f"{labels[each]} {counts[each] / classes.size:.1%}" for each in np.argsort(-counts) if counts[each]]
    print(f"{name}\t{name}.classes.png\t{', '.join(shares)}")


def depth_of_pixels(depths, height, width):
    """Return the depth of every pixel, float32 (height, width), of depths (rows, columns): bilinear between."""
    left, right, share = between(depths.shape[1], width)
    wide = depths[:, left] * (1 - share) + depths[:, right] * share
    above, below, share = between(depths.shape[0], height)
    return wide[above] * (1 - share[:, None]) + wide[below] * share[:, None]


def write_depths(depths, file):
    """Write depths as a PNG of 16 bits: 0 is the smallest of the picture, 65535 the largest."""
    shares = (depths - depths.min()) / max(depths.max() - depths.min(), np.finfo(np.float32).tiny)
    Image.fromarray(np.rint(shares * 65535).astype(np.uint16)).save(file)


def say_depth(name, picture, outputs, labels):
    """Write a PNG beside the picture of the depths of its pixels; print its name, the smallest and the largest."""
    depths = depth_of_pixels(outputs["predicted_depth"][0], *picture.shape[:2])
    write_depths(depths, f"{name}.depths.png")
    print(f"{name}\t{name}.depths.png\t{depths.min():.4g}\t{depths.max():.4g}")


def found_objects(logits, boxes, classes):
    """Return what is found with a score of 0.4 or more, the best first, and no more than there are queries.

    Args:
        logits: (queries, classes), each of a sigmoid; or with one of no object behind them, of one softmax.
        boxes: (queries, 4): centre, width and height as shares of the picture's.

    Returns:
        (found, 6): score, class, left, top, right and bottom as shares.
    """
    if logits.shape[1] == classes:
        scores = 1 / (1 + np.exp(-logits))
    else:
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = (scores / scores.sum(axis=1, keepdims=True))[:, :-1]
        scores = scores * (np.arange(classes) == scores.argmax(axis=1)[:, None])  # a query finds one object
    query, number = np.nonzero(scores >= 0.4)
    centre, size = boxes[query, :2], boxes[query, 2:]
    found = np.column_stack([scores[query, number], number, centre - size / 2, centre + size / 2])
    return found[np.argsort(-found[:, 0], kind="stable")][: len(logits)]


def say_objects(name, picture, outputs, labels):
    """Print each object on a line: its class, its score, and left, top, right and bottom in pixels."""
    height, width = picture.shape[:2]
    for score, number, *box in found_objects(outputs["logits"][0], outputs["pred_boxes"][0], len(labels)):
        pixels = "\t".join(f"{edge:.1f}" for edge in np.multiply(box, (width, height, width, height)))
        print(f"{name}\t{labels[int(number)]}\t{score:.4f}\t{pixels}")


ANSWERS = {
    CLASSIFIES: (class_shares, say_class),
    SEGMENTS: (between, class_of_pixels, write_classes, say_pixels),
    SEES_DEPTH: (between, depth_of_pixels, write_depths, say_depth),
    DETECTS: (found_objects, say_objects),
}
