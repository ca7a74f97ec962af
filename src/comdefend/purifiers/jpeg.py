"""JPEG as a defence: what a lossy codec for human eyes leaves out, the classifier does not see either.

Dziugaite et al., "A study of the effect of JPG compression on adversarial images", 2016; Das et al.,
"SHIELD", KDD 2018. Assumes an attacker who does not know of it and perturbations that are small or of
high frequency. Broken by BPDA (Athalye et al., 2018) and by attacks through a differentiable JPEG
(Shin & Song, 2017).
"""

from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from comdefend.errors import MissingExtraError, RequestError
from comdefend.purifiers.base import Purifier, purifiers


@purifiers.register("jpeg")
class JPEG(Purifier):
    """Encode and decode with Pillow's JPEG at `quality` (1 to 95), chroma at half resolution.

    The surrogate is a differentiable JPEG (Kornia's): the same transform with smooth rounding.
    """

    gradient_modes = ("surrogate", "identity")

    def __init__(self, *, quality: int = 75) -> None:
        super().__init__()
        if not (isinstance(quality, int) and 1 <= quality <= 95):
            raise RequestError(f"quality is {quality!r}; it must be a whole number from 1 to 95")
        self.quality = quality

    def purify(self, images: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise RequestError(f"images have {images.shape[1]} channels; JPEG takes 1 or 3")
        arrays = (images.detach().float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        decoded = [torch.from_numpy(self._through(array)) for array in arrays]
        return (torch.stack(decoded).permute(0, 3, 1, 2).float() / 255).to(images)

    def surrogate(self, images: Tensor) -> Tensor:
        try:
            from kornia.enhance import jpeg_codec_differentiable
        except ImportError as error:
            raise MissingExtraError("a differentiable JPEG", extra="defences", package="kornia") from error
        colour = images.expand(-1, 3, -1, -1)
        quality = torch.tensor([float(self.quality)], device=images.device, dtype=images.dtype)
        coded: Tensor = jpeg_codec_differentiable(colour, quality)
        return coded if images.shape[1] == 3 else coded.mean(1, keepdim=True)

    def settings(self) -> dict[str, Any]:
        return {"quality": self.quality}

    def _through(self, array: "np.ndarray[Any, np.dtype[np.uint8]]") -> "np.ndarray[Any, np.dtype[np.uint8]]":
        grey = array.shape[2] == 1
        file = BytesIO()
        Image.fromarray(array[:, :, 0] if grey else array).save(file, "JPEG", quality=self.quality)
        decoded = np.array(Image.open(file))
        return decoded[:, :, None] if grey else decoded
