"""Folders of images: what is shown is what is read, and what cannot be read rightly is refused by name."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mgraph.data.loading import load_task
from mgraph.errors import InputError, MGraphError

RNG = np.random.default_rng(0)


def picture(colour=(200, 10, 30), size=(4, 4)):
    return Image.new("RGB", size, colour)


@pytest.fixture
def folder(tmp_path):
    """Two classes of plain images, which tests add to."""
    for split, count in (("train", 6), ("test", 1)):
        for c, colour in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
            (tmp_path / split / c).mkdir(parents=True)
            for i in range(count):
                picture(colour).save(tmp_path / split / c / f"{i}.png")
    return tmp_path


def load(folder, query="size=4"):
    return load_task(f"imagefolder:.?{query}", base=folder)


def shown(folder, file, query="size=4"):
    """Read an image as the only test example of its class, in [0, 1], shape (3, size, size)."""
    (folder / "test" / "cat" / "0.png").unlink()
    (folder / "test" / "cat" / file.name).write_bytes(file.read_bytes())
    x, _ = load(folder, query).test.examples(torch.tensor([0]))
    return x[0].numpy()


def png16(path, pixels):
    """Write a PNG of 16 bits per channel, which Pillow cannot: (H, W, C), C = 1 grey, 2 with alpha, 3 RGB, 4 RGBA."""
    height, width, channels = pixels.shape

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_are_shortened_to_8_and_it_is_said(folder, channels):
    pixels = RNG.integers(0, 65536, (4, 4, channels)).astype(np.uint16)
    pixels[:, :, 3:] = 65535
    x = shown(folder, png16(folder / "deep.png", pixels))
    np.testing.assert_allclose(x, pixels.transpose(2, 0, 1)[:3] / 65535, atol=1 / 255)
    assert any("read with 8 bits per colour: cat/deep.png" in note for note in load(folder).notes)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_grey_of_16_bits_keeps_its_precision(folder, ending):
    pixels = RNG.integers(300, 65536, (4, 4)).astype(np.uint16)
    Image.fromarray(pixels).save(folder / f"deep.{ending}", format="PPM" if ending == "pgm" else None)
    np.testing.assert_allclose(shown(folder, folder / f"deep.{ending}")[1], pixels / 65535, atol=1e-6)


def test_8_bit_images_beside_16_bit_ones_mean_the_same(folder):
    plain = load(folder).test.examples(torch.tensor([0, 1]))[0]
    png16(folder / "test" / "dog" / "9.png", RNG.integers(0, 65536, (4, 4, 1)).astype(np.uint16))
    mixed = load(folder).test
    assert mixed.inputs.dtype == torch.float32
    torch.testing.assert_close(mixed.examples(torch.tensor([0, 1]))[0], plain)


def test_dim_16_bit_images_are_pointed_out(folder):
    png16(folder / "test" / "dog" / "9.png", RNG.integers(0, 4096, (4, 4, 1)).astype(np.uint16))
    assert any("of 65535 only" in note for note in load(folder).notes)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_8_bit_modes_become_the_colours_that_they_show(folder, mode):
    colour = (255, 255, 255) if mode == "1" else (120, 120, 120) if mode == "L" else (200, 10, 30)
    image = picture(colour)
    image = image.quantize() if mode == "P" else image.convert(mode)
    image.save(folder / "x.tif")
    np.testing.assert_allclose(shown(folder, folder / "x.tif")[:, 0, 0] * 255, colour, atol=2)


def transparent(path, kind):
    if kind == "deep":
        return png16(path, np.full((4, 4, 4), (65535, 0, 0, 0), np.uint16))
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    if kind == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([255, 0, 0])
        image.save(path, transparency=0)
        return path
    image.convert(kind).save(path)
    return path


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "deep"])
def test_what_lies_behind_transparent_pixels_is_asked(folder, kind):
    transparent(folder / "train" / "dog" / "t.png", kind)
    with pytest.raises(InputError, match=r"1 of 13 images .*: dog/t\.png; .*background=white"):
        load(folder)


@pytest.mark.parametrize("kind", ["RGBA", "P", "deep"])
@pytest.mark.parametrize(("background", "colour"), [("white", (1, 1, 1)), ("black", (0, 0, 0)), ("ignore", (1, 0, 0))])
def test_a_background_is_put_behind_transparent_pixels(folder, kind, background, colour):
    x = shown(folder, transparent(folder / "t.png", kind), f"size=4&background={background}")
    np.testing.assert_allclose(x[:, 1, 1], colour, atol=1e-6)


def test_opaque_alpha_needs_no_background(folder):
    picture().convert("RGBA").save(folder / "o.png")
    np.testing.assert_allclose(shown(folder, folder / "o.png")[:, 0, 0] * 255, (200, 10, 30), atol=1e-4)
    with pytest.raises(InputError, match="background is white, black, ignore, not 'green'"):
        load(folder, "background=green")


def test_photos_stand_as_the_camera_was_held(folder):
    image = Image.new("RGB", (4, 4), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 4, 2))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(folder / "photo.jpg", exif=exif, quality=100)
    x = shown(folder, folder / "photo.jpg")
    assert x[:, 0].max() < 0.1
    assert x[:, 3].min() > 0.9


@pytest.mark.parametrize("ending", ["gif", "tif"])
def test_of_several_frames_the_first_is_taken_and_it_is_said(folder, ending):
    file = folder / "train" / "dog" / f"many.{ending}"
    picture((0, 200, 0)).save(file, save_all=True, append_images=[picture((9, 9, 200))])
    task = load(folder)
    assert any(f"the first is taken: dog/many.{ending}" in note for note in task.notes)
    assert len(task.train) + len(task.valid) == 13


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(folder, dtype):
    Image.fromarray(np.ones((4, 4), dtype)).save(folder / "train" / "cat" / "raw.tif")
    with pytest.raises(InputError, match=r"cat/raw\.tif \(its pixels are .*8 or 16 bits"):
        load(folder)


def test_hidden_and_system_files_are_no_data(folder):
    before = load(folder)
    for place in (folder / "train", folder / "train" / "cat", folder / "test"):
        for name in (".ipynb_checkpoints", "__MACOSX"):
            (place / name).mkdir()
            picture().save(place / name / "0-checkpoint.png")
    for name in (".DS_Store", "Thumbs.db", "._0.png"):
        (folder / "train" / "dog" / name).write_bytes(b"nothing to see")
    (folder / "train" / "labels.csv").write_text("0,cat")
    (folder / "train" / "dog" / "notes.txt").write_text("good dog")
    (folder / "val").mkdir()
    after = load(folder)
    assert (after.classes, after.fingerprint) == (2, before.fingerprint)
    said = " ".join(after.notes)
    assert "not read in " in said
    for named in (".ipynb_checkpoints", "__MACOSX", "labels.csv", "dog/notes.txt", "not val"):
        assert named in said
    assert before.notes == ()


def test_links_that_go_in_circles_end(folder):
    (folder / "train" / "cat" / "again").symlink_to(folder / "train" / "cat")
    assert len(load(folder).train) == 11


def test_sizes_that_differ_are_said(folder):
    picture(size=(9, 3)).save(folder / "train" / "dog" / "wide.png")
    assert any("2 sizes, from 4×4 to 9×3 pixels; all are brought to 4×4" in note for note in load(folder).notes)


def test_empty_classes_and_missing_ones_are_named(folder):
    (folder / "train" / "eel").mkdir()
    (folder / "train" / "eel" / ".keep").touch()
    with pytest.raises(InputError, match=r"class folder eel of .*train holds no image"):
        load(folder)
    (folder / "flat").mkdir()
    picture().save(folder / "flat" / "0.png")
    with pytest.raises(InputError, match="flat has no folder train; put images into train/CLASS/ and test/CLASS/"):
        load(folder / "flat")
    (folder / "flat" / "train").mkdir()
    with pytest.raises(InputError, match="no class folders"):
        load(folder / "flat")


def test_all_damaged_images_are_counted_and_the_first_named(folder):
    whole = (folder / "train" / "cat" / "0.png").read_bytes()
    for i, content in enumerate((b"", b"no image", whole[:50], whole[:-20], whole.replace(b"IDAT", b"IDAX"))):
        (folder / "train" / "dog" / f"bad{i}.png").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(folder)
    text = str(caught.value)
    assert text.startswith(f"5 of 17 images in {folder}/train cannot be read: dog/bad0.png (")
    assert all(f"dog/bad{i}.png (" in text for i in range(3))
    assert "and 2 more" in text


def test_a_folder_that_cannot_be_entered_is_named(folder):
    (folder / "train" / "cat").chmod(0)
    try:
        if os.access(folder / "train" / "cat", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(InputError, match="train/cat cannot be read"):
            load(folder)
    finally:
        (folder / "train" / "cat").chmod(0o755)


@pytest.mark.parametrize("seed", range(8))
def test_no_bytes_make_a_raw_error(folder, seed):
    random = np.random.default_rng(seed)
    for kind in ("png", "jpg", "gif", "tif", "webp", "bmp"):
        path = folder / "train" / "dog" / f"x.{kind}"
        picture().save(path)
        content = bytearray(path.read_bytes())
        for _ in range(5):
            content[random.integers(len(content))] = random.integers(256)
        path.write_bytes(content[: random.integers(1, len(content) + 1)])
    said = "dog/x."
    try:
        load(folder)
    except MGraphError as error:
        said = str(error)
    assert "dog/x." in said
