"""From one image set to another: smaller, standardised, or with its structure destroyed on purpose."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from .images import Images


def pool(images: Images, factor: int) -> Images:
    """Return the images with every factor×factor block of pixels replaced by its mean.

    Raises:
        ValueError: `factor` does not divide height and width.
    """
    h, w = images.x.shape[-2:]
    if factor < 1 or h % factor or w % factor:
        raise ValueError(f"factor is {factor}; it must divide the image sides {h} and {w}")
    x, x_test = (avg_pool2d(x, factor) for x in (images.x, images.x_test))  # [n, c, h/factor, w/factor]
    return replace(images, x=x, x_test=x_test)


def subset(images: Images, *, per_class: int, classes=None, generator=None) -> Images:
    """Return the images with `per_class` training examples of each class, and all test examples of them.

    Args:
        per_class: training examples kept of each class.
        classes: the labels to keep, in the order of their new labels 0, 1, …; all of them if None.
        generator: draws which examples are kept; the first ones of each class are if None.

    Raises:
        ValueError: a class has fewer than `per_class` training examples.
    """
    classes = list(range(images.n_classes) if classes is None else classes)
    places = [torch.nonzero(images.y == c).flatten() for c in classes]
    for c, found in zip(classes, places, strict=True):
        if len(found) < per_class:
            raise ValueError(f"class {c} has only {len(found)} training examples, not {per_class}")
    if generator is not None:
        orders = [torch.randperm(len(p), generator=generator, device=generator.device) for p in places]
        places = [p[order.to(p.device)] for p, order in zip(places, orders, strict=True)]
    keep = torch.stack([p[:per_class] for p in places], dim=1).flatten()  # the classes cycle
    keep_test = torch.isin(images.y_test, torch.tensor(classes, device=images.y_test.device))
    new = torch.zeros(images.n_classes, dtype=torch.int64, device=images.y.device)  # old label -> new label
    for label, c in enumerate(classes):
        new[c] = label
    return replace(images, x=images.x[keep], y=new[images.y[keep]], x_test=images.x_test[keep_test],
                   y_test=new[images.y_test[keep_test]], n_classes=len(classes))


def standardise(images: Images, *, per: str = "pixel") -> Images:
    """Return the images x' = (x − μ)/σ with μ and σ measured on the training set, applied to both sets.

    σ is one number, the root mean square of x − μ over the training set, so that images are moved and
    scaled but their geometry is kept, and a pixel that hardly varies is not blown up.

    Args:
        per: what μ is the mean of: "pixel" (μ is the mean image), "channel" (one number a channel) or
            "global".

    Raises:
        ValueError: unknown `per`, or training images that do not vary (σ = 0).
    """
    dims = {"pixel": (0,), "channel": (0, 2, 3), "global": (0, 1, 2, 3)}
    if per not in dims:
        raise ValueError(f"per is {per!r}; the choices are {', '.join(dims)}")
    mean = images.x.mean(dim=dims[per], keepdim=True)
    scale = (images.x - mean).square().mean().sqrt()
    if not scale > 0:
        raise ValueError("the training images do not vary: there is nothing to standardise")
    return replace(images, x=(images.x - mean) / scale, x_test=(images.x_test - mean) / scale)


def shuffle_pixels(images: Images, *, generator: torch.Generator) -> Images:
    """Return the images with one and the same random permutation applied to the pixels of every image.

    Source: [zhang2017understanding], "shuffled pixels".
    """
    d = images.x[0].numel()
    order = torch.randperm(d, generator=generator, device=generator.device).to(images.x.device)
    x, x_test = (x.flatten(1)[:, order].reshape(x.shape) for x in (images.x, images.x_test))
    return replace(images, x=x, x_test=x_test)


def random_pixels(images: Images, *, generator: torch.Generator) -> Images:
    """Return the images with a random permutation of its own applied to the pixels of each image.

    Source: [zhang2017understanding], "random pixels".
    """
    def scatter(x: Tensor) -> Tensor:
        keys = torch.rand(len(x), x[0].numel(), generator=generator, device=generator.device)
        return x.flatten(1).gather(1, keys.argsort(dim=1).to(x.device)).reshape(x.shape)

    return replace(images, x=scatter(images.x), x_test=scatter(images.x_test))


def gaussian_pixels(images: Images, *, generator: torch.Generator) -> Images:
    """Return images of independent Gaussian pixels with the mean and the variance of all training pixels.

    Source: [zhang2017understanding], "Gaussian".
    """
    mean, std = images.x.mean(), images.x.std()

    def draw(x: Tensor) -> Tensor:
        return mean + std * torch.randn(x.shape, generator=generator, device=generator.device).to(x)

    return replace(images, x=draw(images.x), x_test=draw(images.x_test))
