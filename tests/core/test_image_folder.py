"""Pictures as they lie in folders: turned, of 16 bit, animated."""
import numpy as np
from PIL import Image

from data_loader.image_folder import ImageFolder


def pixels(root, **options) -> np.ndarray:
    return np.array(ImageFolder("train", str(root), **options)[0][0])


def file(root, name: str):
    (root / "train" / "cat").mkdir(parents=True)
    return root / "train" / "cat" / name


def test_images_of_16_bit_keep_their_shades(tmp_path):
    Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16)).save(file(tmp_path, "1.png"))
    assert pixels(tmp_path)[0, :, 0].tolist() == [0, 1, 255]
    assert pixels(tmp_path, decoder="torchvision")[0, :, 0].tolist() == [0, 255, 255]  # as 1.0.0


def test_images_are_turned_as_their_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(file(tmp_path, "1.jpg"), exif=exif)
    assert pixels(tmp_path).shape == (4, 2, 3) and pixels(tmp_path, decoder="torchvision").shape == (2, 4, 3)


def test_of_an_animated_image_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    frames[0].save(file(tmp_path, "1.webp"), save_all=True, append_images=frames[1:], lossless=True)
    assert pixels(tmp_path)[0, 0].tolist() == [255, 0, 0]
