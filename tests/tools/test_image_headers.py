"""`--check` reads the headers of all images once."""
import numpy as np
import torch
from PIL import Image

from base.base_data_loader import DataSplits
from tools.data_checks.image_headers import describe_images


class Folder(torch.utils.data.Dataset):
    def __init__(self, root):
        self.imgs = [(str(file), 0) for file in sorted(root.iterdir())]


def test_what_is_odd_about_images_is_counted_by_kind_with_a_first_path(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = Image.new("RGB", (4, 2))
    plain.save(tmp_path / "plain.png")
    plain.save(tmp_path / "turned.jpg", exif=exif)
    plain.convert("CMYK").save(tmp_path / "print.jpg")
    plain.save(tmp_path / "moves.gif", save_all=True, append_images=[Image.new("RGB", (4, 2), "red")])
    Image.fromarray(np.ones((2, 2), dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("1", (10_000, 6_000)).save(tmp_path / "huge.png")
    (tmp_path / "empty.png").touch()
    for name in ("bad1.png", "bad2.png"):
        (tmp_path / name).write_bytes(b"no image")
    assert describe_images(DataSplits({"train": Folder(tmp_path)}.get)) == [
        f"1 of 9 images are CMYK, such as {tmp_path}/print.jpg",
        f"1 of 9 images are animated, such as {tmp_path}/moves.gif",
        f"2 of 9 images are broken, such as {tmp_path}/bad1.png",
        f"1 of 9 images are empty files, such as {tmp_path}/empty.png",
        f"1 of 9 images are huge (over 50 megapixels), such as {tmp_path}/huge.png",
        f"1 of 9 images are rotated by EXIF, such as {tmp_path}/turned.jpg",
        f"1 of 9 images have 16 bit, such as {tmp_path}/deep.png"]
