import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers.integrations import TensorBoardCallback  # noqa: E402

from training._support.episode_reports import report_episode  # noqa: E402


@pytest.fixture
def animation(tmp_path):
    frames = [Image.fromarray(np.full((8, 6, 3), value, np.uint8)) for value in (0, 120, 240)]
    frames[0].save(tmp_path / "episode.gif", save_all=True, append_images=frames[1:])
    return tmp_path / "episode.gif"


def trainer(*trackers, callbacks=()):
    return SimpleNamespace(
        args=SimpleNamespace(report_to=list(trackers)), callback_handler=SimpleNamespace(callbacks=list(callbacks))
    )


def test_tensorboard_shows_the_frames(tmp_path, animation):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "log"))
    report_episode(trainer("tensorboard", callbacks=[TensorBoardCallback(writer)]), "episode-0", animation, 25)
    writer.close()
    log = event_accumulator.EventAccumulator(str(tmp_path / "log"))
    log.Reload()
    (shown,) = log.Images("episode-0")
    assert (shown.step, shown.height, shown.width) == (25, 8, 6 * 3)


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_other_trackers_receive_the_animation(tracker, animation, monkeypatch):
    sent = []
    fake = SimpleNamespace(log=sent.append, Video=lambda path, format: (path, format))
    monkeypatch.setitem(sys.modules, tracker, fake)
    report_episode(trainer(tracker), "episode-0", animation, 25)
    assert sent == [{"episode-0": (str(animation), "gif"), "train/global_step": 25}]


def test_without_a_tracker_nothing_is_sent(animation):
    report_episode(trainer(), "episode-0", animation, 25)
    report_episode(trainer("tensorboard"), "episode-0", animation, 25)
