import numpy as np
from PIL import Image

from benchmarks.contact_sheet import VIEWS, main


def test_the_sheet_holds_every_view(tmp_path):
    out = tmp_path / "sheet.png"
    assert main(["--size", "64", "--out", str(out)]) == 0
    sheet = np.asarray(Image.open(out))
    rows = -(-len(VIEWS) // 4)
    assert sheet.shape == (rows * (64 + 22), 4 * 64)
    tiles = [sheet[r * 86 + 22 : (r + 1) * 86, c * 64 : (c + 1) * 64] for r in range(rows) for c in range(4)]
    assert all(tile.std() > 10 for tile in tiles[: len(VIEWS)])
