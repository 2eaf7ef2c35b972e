"""X-ray images of others: modes, sizes, polarity, frames and damage."""

import numpy as np
import pytest
from PIL import Image

from carm_env.ct.radiographs import RadiographError, is_image_file, read_image, read_radiograph

RAMP = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_png_becomes_grey(tmp_path, mode):
    found = read_radiograph(saved(tmp_path / "x.png", Image.fromarray(RAMP).convert(mode))).image
    assert found.shape == RAMP.shape and found.dtype == np.uint8
    # Black and white of one bit are dithered.
    assert abs(found.astype(float) - RAMP).mean() < (130 if mode == "1" else 2)
    assert found[:8].mean() < found[-8:].mean()


def test_sixteen_bits_are_stretched(tmp_path):
    values = (1000 + 8 * np.arange(64 * 48).reshape(48, 64)).astype(np.uint16)
    found = read_radiograph(saved(tmp_path / "x.png", Image.fromarray(values)))
    assert found.image.min() == 0 and found.image.max() == 255 and "16 bits (1000 to" in found.notes[0]
    assert np.corrcoef(found.image.ravel(), values.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_modes_become_grey(tmp_path, mode):
    found = read_radiograph(saved(tmp_path / "x.jpg", Image.fromarray(RAMP).convert(mode), quality=95)).image
    assert abs(found.astype(float) - RAMP).mean() < 4


@pytest.mark.parametrize("suffix", [".tif", ".bmp"])
def test_tiff_and_bmp_are_read(tmp_path, suffix):
    path = saved(tmp_path / f"x{suffix}", Image.fromarray(RAMP))
    assert (read_radiograph(path).image == RAMP).all() and (np.array(read_image(path).image)[..., 0] == RAMP).all()
    assert not is_image_file(path), "folders are searched for the files that people send"
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(RadiographError, match="is damaged"):
        read_radiograph(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float16", "float64", "bool"])
def test_arrays_are_read(tmp_path, dtype):
    values = RAMP > 127 if dtype == "bool" else RAMP / 255 if dtype.startswith("float") else RAMP
    np.save(tmp_path / "x.npy", values.astype(dtype)[None])
    found = read_radiograph(tmp_path / "x.npy")
    assert found.image.shape == RAMP.shape and found.image.dtype == np.uint8
    assert np.corrcoef(found.image.ravel(), values.ravel())[0, 1] > 0.99
    assert found.notes == (() if dtype == "uint8" else (f"values of {dtype} were stretched",))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 40, 40)), r"shape \(2, 40, 40\), expected \(H, W\)"),
        (np.zeros(40), "shape"),
        (np.zeros((8, 40)), "at least 32"),
        (np.zeros((0, 40)), "cannot be read|expected integers or real numbers"),
        (np.zeros((40, 40), complex), "complex128 .*expected integers or real numbers"),
        (np.array([[None]]), "cannot be read as a .npy file"),
        (np.where(np.eye(64) > 0, np.inf, 1.0), "values that are not finite numbers"),
        (np.full((64, 64), np.nan), "values that are not finite numbers"),
    ],
)
def test_arrays_of_other_kinds_are_named(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(RadiographError, match=message) as raised:
        read_radiograph(tmp_path / "x.npy")
    assert "x.npy" in str(raised.value)


def test_an_array_that_is_cut_short_is_named(tmp_path):
    np.save(tmp_path / "x.npy", RAMP)
    for count in (8, 100, 1000):
        (tmp_path / "y.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:count])
        with pytest.raises(RadiographError, match="y.npy cannot be read as a .npy file"):
            read_radiograph(tmp_path / "y.npy")


def test_transparent_pixels_are_black_and_colours_are_noted(tmp_path):
    pixels = np.full((40, 40, 4), (200, 30, 30, 255), np.uint8)
    pixels[:20, :, 3] = 0
    found = read_radiograph(saved(tmp_path / "x.png", Image.fromarray(pixels)))
    assert found.image[:20].max() == 0 and found.image[20:].min() > 50
    assert found.notes == ("colours were converted to grey values",)


def test_the_orientation_of_a_camera_is_applied(tmp_path):
    image = Image.fromarray(RAMP)
    exif = image.getexif()
    exif[0x0112] = 6
    assert read_radiograph(saved(tmp_path / "x.jpg", image, exif=exif)).image.shape == (64, 48)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((1, 1), "1 x 1 pixels, expected at least 32"),
        ((4000, 40), "at most 4 : 1"),
        ((40000, 3000), "at most 100,000,000"),
    ],
)
def test_odd_sizes_are_named(tmp_path, size, words):
    path = saved(tmp_path / "x.png", Image.new("1", size))
    with pytest.raises(RadiographError, match=r"x\.png has .*pixels") as raised:
        read_radiograph(path)
    assert words in str(raised.value)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = saved(tmp_path / "x.png", Image.new("1", (40, 40)))
    content = bytearray(path.read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    path.write_bytes(content)
    with pytest.raises(RadiographError, match=r"too many pixels|damaged"):
        read_radiograph(path)


def test_damage_is_named(tmp_path):
    whole = saved(tmp_path / "x.png", Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)))
    cut, empty, text = tmp_path / "cut.png", tmp_path / "empty.png", tmp_path / "text.png"
    cut.write_bytes(whole.read_bytes()[:2000])
    empty.touch()
    text.write_text("no image", encoding="utf-8")
    for path, words in (
        (cut, "is damaged"),
        (empty, "0 bytes"),
        (text, "expected PNG, JPEG, TIFF, BMP, .npy or DICOM"),
    ):
        with pytest.raises(RadiographError, match=words) as raised:
            read_radiograph(path)
        assert path.name in str(raised.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_radiograph(tmp_path / "absent.png")


def test_images_are_known_by_suffix_or_content(tmp_path):
    nameless = tmp_path / "x"
    saved(tmp_path / "x.png", Image.fromarray(RAMP)).rename(nameless)
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    assert is_image_file(nameless) and read_radiograph(nameless).image.shape == RAMP.shape
    assert is_image_file(tmp_path / "absent.JPG") and not is_image_file(tmp_path / "notes.txt")


def write_dicom(path, values, **attributes):
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.XRayAngiographicImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.Modality, data.PatientName, data.PatientID = "XA", "Doe^Jane", "P-77"
    bits = 8 * values.dtype.itemsize
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits, bits - 1, 0
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = values.shape[-2:]
    if values.ndim == 3:
        data.NumberOfFrames = len(values)
    data.PixelData = values.tobytes()
    for name, value in attributes.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_dicom_polarity_follows_the_photometric_interpretation(tmp_path, dtype):
    values = RAMP.astype(dtype) * (1 if dtype == np.uint8 else 100)
    plain = read_radiograph(write_dicom(tmp_path / "a.dcm", values))
    inverted = read_radiograph(write_dicom(tmp_path / "b.dcm", values, PhotometricInterpretation="MONOCHROME1"))
    assert np.corrcoef(plain.image.ravel(), RAMP.ravel())[0, 1] > 0.99
    assert abs(plain.image.astype(int) + inverted.image - 255).max() <= 2
    assert plain.notes == () and inverted.notes == ("MONOCHROME1: the grey values were inverted",)
    assert "Doe" not in str(plain.notes + inverted.notes)


def test_the_display_window_of_a_dicom_file_is_applied(tmp_path):
    values = np.full((40, 40), 100, np.uint16)
    values[:10], values[30:] = 0, 60000
    values[10:20] = 200
    found = read_radiograph(write_dicom(tmp_path / "a.dcm", values, WindowCenter="150", WindowWidth="100")).image
    # Without the window, 100 and 200 would be black beside 60000.
    assert found[15, 0] > found[25, 0] + 200 and found[35, 0] == 255


def test_the_pixel_size_at_the_isocentre_is_read(tmp_path):
    sizes = dict(ImagerPixelSpacing=[0.4, 0.4], DistanceSourceToDetector="1000", DistanceSourceToPatient="500")
    assert read_radiograph(write_dicom(tmp_path / "a.dcm", RAMP, **sizes)).pixel_mm == pytest.approx(0.2)
    assert read_radiograph(write_dicom(tmp_path / "b.dcm", RAMP, ImagerPixelSpacing=[0.4, 0.4])).pixel_mm is None


def test_a_frame_of_several_is_chosen(tmp_path):
    run = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]])
    path = write_dicom(tmp_path / "a.dcm", run)
    with pytest.raises(RadiographError, match=r"holds 3 frames.*--frame 1 \.\. 3"):
        read_radiograph(path)
    with pytest.raises(RadiographError, match="--frame is 4: expected 1 to 3"):
        read_radiograph(path, 4)
    assert np.corrcoef(read_radiograph(path, 2).image.ravel(), run[1].ravel())[0, 1] > 0.99
    animated = tmp_path / "b.png"
    Image.fromarray(RAMP).save(animated, save_all=True, append_images=[Image.fromarray(RAMP[::-1])])
    with pytest.raises(RadiographError, match="holds 2 frames"):
        read_radiograph(animated)
    assert (read_radiograph(animated, 2).image == RAMP[::-1]).all()


def test_dicom_files_that_are_no_x_ray_are_named(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(RadiographError, match="colour image"):
        read_radiograph(path)
    whole = write_dicom(tmp_path / "b.dcm", RAMP)
    whole.write_bytes(whole.read_bytes()[:-500])
    with pytest.raises(RadiographError, match="pixels cannot be read"):
        read_radiograph(whole)
