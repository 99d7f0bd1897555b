"""Which quantizer a recipe and the command line mean: never another than they say."""

import pytest
import yaml

from workshop_lib.errors import WorkshopError
from workshop_lib.training.recipes import recipe_path, recipes
from workshop_lib.training.run import fit


@pytest.fixture
def resolved(capsys):
    """What `workshop fit ARGUMENTS` would train, as --print_config shows it."""

    def resolve(*arguments):
        with pytest.raises(SystemExit) as end:
            fit([*arguments, "--print_config"])
        assert end.value.code == 0
        return yaml.safe_load(capsys.readouterr().out)

    return resolve


def assert_says(config, said):
    """All that is said stands in the config."""
    for key, value in said.items():
        if isinstance(value, dict):
            assert_says(config[key], value)
        else:
            assert config[key] == value, key


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_understood_as_written(name, resolved):
    assert_says(resolved("-c", name), yaml.safe_load(recipe_path(name).read_text()))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.quantizer.kind", "vq"], {"kind": "vq", "num_codes": 512}),
        (["--model.quantizer.kind=vq", "--model.quantizer.num_codes=7"], {"num_codes": 7}),
        (["--model.quantizer.num_codes=7", "--model.quantizer.kind=vq"], {"num_codes": 7}),
        (["--model.quantizer.kind=lfq", "--model.quantizer.commitment=3"], {"kind": "lfq"}),
        (["--model.quantizer.levels=[4, 4]"], {"kind": "fsq", "levels": [4, 4]}),
    ],
)
def test_the_command_line_changes_the_kind_and_its_keys(arguments, expected, resolved):
    config = resolved("-c", "tokenizer/tiny", *arguments)
    assert_says(config["model"]["quantizer"], expected)
    # all else stays as the recipe says
    assert config["model"]["dim"] == 48 and config["optim"]["lr"] == 2e-3


def test_the_config_of_a_run_can_be_changed_like_a_recipe(tmp_path, resolved):
    of_run = resolved("-c", "tokenizer/tiny", "--model.quantizer.kind=vq")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(of_run))
    again = resolved(f"--config={tmp_path / 'config.yaml'}")
    assert again["model"] == of_run["model"]
    other = resolved(f"--config={tmp_path / 'config.yaml'}", "--model.quantizer.kind=fsq")
    assert other["model"]["quantizer"] == {"kind": "fsq", "levels": [8, 8, 8]}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--model.quantizer.kind", "fsq", "--model.quantizer.num_codes", "7"],
            r"model.quantizer.num_codes: no such key of model.quantizer.kind fsq; it has levels",
        ),
        (["--model.quantizer.num_codes=7"], r"model.quantizer.num_codes: no such key"),
        (["--model.quantizer.kind=vq", "--model.quantizer.levels=[4]"], r"quantizer.levels: no"),
        (["--model.quantizer.kind=voronoi"], r"model.quantizer.kind 'voronoi': choose one of vq"),
        (["--model.quantizer.kind"], r"model.quantizer.kind: expected one"),
        (['--model.quantizer={"kind": "vq"}'], r"model.quantizer.kind.*Got value: vq"),
        (["--model.quantizer.levels=wide"], r"model.quantizer.levels.*Got value: wide"),
        (["--model.dimm=3"], r"unrecognized arguments: --model.dimm=3"),
        (["--gan.weight=much"], r"gan.*weight.*Got value: much"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, complaint):
    with pytest.raises(WorkshopError, match=complaint) as refusal:
        fit(["-c", "tokenizer/tiny", *arguments])
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("quantizer", "complaint"),
    [
        ("{kind: lfq, levels: [8]}", "model.quantizer.levels: no such key of .* lfq"),
        ("{num_codes: 8}", "model.quantizer.num_codes: no such key of .* fsq"),
        ("{kind: 3}", "model.quantizer.kind 3: choose one of"),
        ("vq", "model.quantizer"),
    ],
)
def test_a_recipe_is_held_to_the_same(tmp_path, quantizer, complaint):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"family: tokenizer\nmodel:\n  quantizer: {quantizer}\n")
    with pytest.raises(WorkshopError, match=complaint):
        fit(["-c", str(recipe), "--data.path=nowhere"])
