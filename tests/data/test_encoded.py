"""Which tokenizer belongs to which model: the wrong one is refused by name."""

import json

import pytest

from workshop_lib.data.encoded import check_tokenizer, tokenizer_entry, tokenizer_note
from workshop_lib.errors import WorkshopError


@pytest.fixture
def files(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.safetensors").write_text(name)
    return tmp_path / "a.safetensors", tmp_path / "b.safetensors"


def test_only_the_tokenizer_trained_on_will_do(files):
    right, wrong = files
    metadata = {"tokenizer": json.dumps(tokenizer_entry(right, 512, (8, 8)))}
    check_tokenizer(metadata, right)
    copy = right.rename(right.with_name("another_name.safetensors"))
    check_tokenizer(metadata, copy)  # what counts is what is in it
    with pytest.raises(WorkshopError, match=r"b\.safetensors .* a\.safetensors .*512 codes"):
        check_tokenizer(metadata, wrong)


def test_a_model_that_names_no_tokenizer_is_let_through(files):
    check_tokenizer({"family": "dynamics"}, files[0])


def test_no_folder_no_note(tmp_path):
    assert tokenizer_note(tmp_path / "gone") == {}
