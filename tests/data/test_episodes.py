"""Records: ours open in the field's readers, the field's in ours, bad ones are named."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import numbered_episodes
from workshop_lib.data.episodes import Episode, decode_episode, encode_episode
from workshop_lib.errors import WorkshopError

T, SIDE = 160, 64


def foreign_record(**changes):
    """As jasmine and the p-doom/coinrun-dataset write them: no height, no width, no level."""
    video = np.random.default_rng(0).integers(0, 256, (T, SIDE, SIDE, 3), dtype=np.uint8)
    record = {
        "raw_video": video.tobytes(),
        "sequence_length": T,
        "actions": np.arange(T, dtype=np.int32) % 15,
    }
    record.update(changes)
    return video, {key: value for key, value in record.items() if value is not None}


def test_round_trip_keeps_everything():
    episode = numbered_episodes([37])[0]
    again = decode_episode(encode_episode(episode), "here")
    for name in ("frames", "actions", "first", "reward"):
        np.testing.assert_array_equal(getattr(again, name), getattr(episode, name))
        assert getattr(again, name).dtype == getattr(episode, name).dtype
    assert again.level_seed == episode.level_seed


@pytest.mark.parametrize(("dtype", "top"), [(np.uint16, 2**16), (np.uint32, 2**18)])
def test_tokens_come_back(dtype, top):
    episode = numbered_episodes([5])[0]
    tokens = np.random.default_rng(0).integers(0, top, (5, 3, 4), dtype=dtype)
    again = decode_episode(encode_episode(replace(episode, tokens=tokens)), "here")
    np.testing.assert_array_equal(again.tokens, tokens)
    assert again.tokens.dtype == dtype
    np.testing.assert_array_equal(again.frames, episode.frames)
    assert decode_episode(encode_episode(episode), "here").tokens is None


def test_our_records_open_in_a_plain_reader_of_the_field():
    episode = numbered_episodes([20], size=SIDE)[0]
    record = pickle.loads(encode_episode(episode))
    shape = (record["sequence_length"], SIDE, SIDE, 3)
    video = np.frombuffer(record["raw_video"], dtype=np.uint8).reshape(shape)
    np.testing.assert_array_equal(video, episode.frames)
    assert record["actions"].dtype == np.int32
    np.testing.assert_array_equal(record["actions"], episode.actions)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_fields_records_open(protocol):
    video, record = foreign_record()
    episode = decode_episode(pickle.dumps(record, protocol=protocol), "here")
    np.testing.assert_array_equal(episode.frames, video)
    np.testing.assert_array_equal(episode.actions, record["actions"])
    assert episode.level_seed is None and episode.first is None


def test_a_record_without_actions_opens():
    _, record = foreign_record(actions=None)
    assert decode_episode(pickle.dumps(record), "here").actions is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"raw_video": None}, "no 'raw_video'"),
        ({"sequence_length": None}, "no 'sequence_length'"),
        ({"sequence_length": 161}, "claims 161 frames"),
        ({"sequence_length": 10**15}, "claims"),
        ({"sequence_length": 0}, "not a positive number"),
        ({"sequence_length": "160"}, "not a positive number"),
        ({"raw_video": "text"}, "not bytes"),
        ({"height": 128}, "claims 160 frames of 128x64"),
        ({"width": -64, "height": -64}, "bad height"),
        ({"actions": np.zeros(3, np.int32)}, "one entry per frame"),
        ({"actions": "none"}, "record 7"),
        ({"level_seed": "five"}, "record 7"),
        ({"tokens": [1, 2], "token_grid": (8, 8)}, "tokens are a list"),
        ({"tokens": b"1234", "token_grid": (8, 8)}, "4 bytes of tokens do not fit"),
        ({"tokens": bytes(T * 128)}, "do not fit token_grid"),
        ({"tokens": bytes(T * 128), "token_grid": (-8, -8)}, "do not fit token_grid"),
        ({"tokens": bytes(T * 128), "token_grid": "8x"}, "record 7"),
        ({"tokens": bytes(T * 128), "token_grid": 8}, "record 7"),
    ],
)
def test_a_bad_record_is_named_with_its_fault(changes, complaint):
    _, record = foreign_record(**changes)
    with pytest.raises(WorkshopError, match=complaint) as error:
        decode_episode(pickle.dumps(record), "file.array_record, record 7")
    assert "file.array_record, record 7" in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\x00" * 50, pickle.dumps([1, 2]), pickle.dumps("text")])
def test_what_is_no_episode_is_refused(data):
    with pytest.raises(WorkshopError, match="record 7 is not an episode"):
        decode_episode(data, "record 7")


def test_an_episode_checks_itself():
    frames = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    for wrong in (frames.astype(np.float32), frames[..., :2], frames[0], frames[:0]):
        with pytest.raises(WorkshopError):
            Episode(wrong)
    with pytest.raises(WorkshopError, match="actions"):
        Episode(frames, actions=np.zeros(5, np.int32))
    for wrong in (np.zeros((4, 2, 2), np.int64), np.zeros((3, 2, 2), np.uint16)):
        with pytest.raises(WorkshopError, match="tokens"):
            Episode(frames, tokens=wrong)
