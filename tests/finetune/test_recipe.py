"""The recipe file: what is refused, how it is explained, the schema that is checked in, and the shipped recipes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from gate.errors import RecipeError
from gate.finetune import load_recipe, parse_recipe
from gate.finetune.recipe import recipe_schema
from tests.conftest import ROOT
from tests.finetune.recipes import LEAST

SHIPPED = sorted([*ROOT.glob("examples/recipes/*lora*.yaml"), *ROOT.glob("testbed/recipes/*.yaml")])


def error_of(**changes: object) -> str:
    """What a person is told about a recipe that is refused."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(yaml.safe_dump({**LEAST, **changes}), where="r.yaml")
    return caught.value.diagnostics()


def test_the_least_recipe_trains_an_adapter_on_answers_with_the_task_mean() -> None:
    """Base and data are enough; what decides the rest stands in the defaults."""
    recipe = parse_recipe(yaml.safe_dump(LEAST))
    assert (recipe.method, recipe.result, recipe.loss_on, recipe.loss) == ("lora", "adapter", "answers", "task_mean")


@pytest.mark.parametrize(
    ("changes", "place", "nearest"),
    [
        ({"los": "task_mean"}, "los", "loss"),
        ({"lora": {"rank": 4, "alpa": 3}}, "lora.alpa", "alpha"),
        ({"data": [{"path": "a.csv", "column": {}}]}, "data.0.column", "columns"),
        ({"data": [{"path": "a.csv", "columns": {"promt": "q"}}]}, "data.0.columns.promt", "prompt"),
        ({"safety": {"data": [{"path": "s"}], "share": 0.1, "pertask": True}}, "safety.pertask", "per_task"),
        ({"early_stop": {"patient": 3}}, "early_stop.patient", "patience"),
    ],
)
def test_an_unknown_key_names_its_place_and_the_nearest_known_key(changes: dict[str, object], place: str, nearest: str) -> None:
    """A mistyped key is refused wherever it stands."""
    assert f"{place}: unknown key; the nearest known key is '{nearest}'" in error_of(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epochs": 2, "max_steps": 10}, "epochs and max_steps both say when to end"),
        ({"method": "full", "output": "adapter"}, "trains no adapter"),
        ({"method": "full", "lora": {"r": 4}}, "no use for lora"),
        ({"balance": "coba", "loss": "token_mean", "eval": {}}, "weighs the tasks of loss 'task_mean'"),
        ({"balance": "coba"}, "reads held-out losses: give eval"),
        ({"coba": {"tau": 2}}, "write balance: coba"),
        ({"balance": "coba", "eval": {}, "coba": {"window": 5, "warm_up": 9}}, "shorter than coba.warm_up"),
        ({"early_stop": {}}, "early_stop reads the held-out loss: give eval"),
        ({"data": []}, "data"),
        ({"data": [{"path": "a", "share": 0.5}, {"path": "b"}]}, "for all of them or for none"),
        ({"data": [{"path": "a", "share": 0.5}, {"path": "b", "share": 0.2}]}, "sum to 0.7"),
        ({"safety": {"data": [{"path": "s", "share": 0.5}], "share": 0.1}}, "sum to 0.5"),
        ({"safety": {"data": [{"path": "s"}], "share": 1.0}}, "safety.share"),
        ({"data": [{"path": "a", "task": "Has Spaces"}]}, "data.0.task"),
        ({"lr": float("nan")}, "lr"),
        ({"method": "dora"}, "method"),
        ({"schema_version": "taskgate/recipe/v2"}, "schema_version"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, object], says: str) -> None:
    """An impossible recipe is an error that says why."""
    assert says in error_of(**changes)


def test_a_duplicate_key_is_refused() -> None:
    """Of two equal keys neither wins."""
    with pytest.raises(RecipeError, match="not valid YAML"):
        parse_recipe(yaml.safe_dump(LEAST) + "name: other\n")


def test_a_missing_recipe_says_where_to_start_from(tmp_path: Path) -> None:
    """The path is named, and the folder of examples."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "none.yaml")
    assert "examples/recipes/" in caught.value.diagnostics()


def test_paths_start_from_the_recipes_folder_and_its_copies(tmp_path: Path) -> None:
    """A changed copy of a recipe reads the same files."""
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(LEAST), encoding="utf-8")
    recipe = load_recipe(tmp_path / "r.yaml")
    assert recipe.directory == recipe.model_copy(update={"seed": 3}).directory == tmp_path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_recipe_is_valid_and_fits_the_schema(path: Path) -> None:
    """What the repository ships parses, and the checked-in schema takes it."""
    assert load_recipe(path).name == path.stem
    schema = json.loads((ROOT / "schemas" / "recipe.schema.json").read_text(encoding="utf-8"))
    assert schema == json.loads(json.dumps(recipe_schema()))
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)


def test_the_papers_hyper_parameters_are_shipped() -> None:
    """examples/recipes/paper-lora.yaml holds the numbers of the paper's notebook."""
    recipe = load_recipe(ROOT / "examples" / "recipes" / "paper-lora.yaml")
    assert (recipe.lora.r, recipe.lora.alpha, recipe.lora.dropout, len(recipe.lora.targets)) == (64, 16, 0.1, 7)
    assert (recipe.lr, recipe.schedule, recipe.warmup_ratio, recipe.weight_decay) == (2e-4, "cosine", 0.03, 0.001)
    assert (recipe.batch, recipe.accumulation, recipe.max_grad_norm, recipe.max_steps) == (4, 1, 0.3, 3000)
    assert (recipe.max_length, recipe.group_by_length, recipe.format) == (1024, True, "chat")
