"""The configs of the Neural Compressor adapter: parameters, local choices, composition, serialisation."""

import json

import pytest
from neural_compressor.common.base_config import config_registry
from neural_compressor.torch.quantization import RTNConfig
from neural_compressor.torch.utils.utility import algos_mapping
from torch import nn

from hf_compress.adapters.neural_compressor import Composition, DistillConfig, PruneConfig, QuantizeConfig
from hf_compress.adapters.neural_compressor.configs import register
from hf_compress.ground.errors import UsageError
from hf_compress.sections.distillation import DistillSection
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.quantization.config import QuantizeSection


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 4))


def mapping(config, model=None):
    found = config.to_config_mapping(model_info=PruneConfig.get_model_info(model or network()))
    return {name: layer.amount for (name, _), layer in found.items()}


def test_all_algorithms_are_registered_and_a_taken_name_raises():
    for name, config in (("prune", PruneConfig), ("distill", DistillConfig), ("quantize", QuantizeConfig)):
        assert config_registry.get_cls_configs()["torch"][name] is config
    assert {"prune", "distill", "quantize"} <= algos_mapping.keys()
    with pytest.raises(UsageError, match="'rtn' already"):
        register("rtn")


def test_only_declared_parameters_build_a_config_and_a_change_reaches_the_global_one():
    config = PruneConfig(amount=0.3, importance="l2", white_list="*")
    assert PruneConfig(**config.get_params_dict()) == config
    assert not {"white_list", "params_list", "_is_initialized"} & config.get_params_dict().keys()
    config.amount = 0.4
    assert config.global_config.amount == 0.4


def test_layers_are_chosen_by_white_list_and_set_local():
    assert mapping(PruneConfig(amount=0.5)) == {"0": 0.5, "2": 0.5, "3": 0.5}
    assert mapping(PruneConfig(amount=0.5, white_list=[nn.Linear])) == {"2": 0.5, "3": 0.5}
    local = PruneConfig(amount=0.5).set_local(nn.Conv2d, PruneConfig(amount=0.2)).set_local("3", PruneConfig(amount=0))
    assert mapping(local) == {"0": 0.2, "2": 0.5, "3": 0}
    assert mapping(local.set_local("0", PruneConfig(amount=0.1))) == {"0": 0.1, "2": 0.5, "3": 0}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PruneConfig(white_list=["encoder"]), "'encoder' matches no layer"),
        (PruneConfig().set_local(nn.Conv1d, PruneConfig()), "'torch.nn.Conv1d' matches no layer"),
        (PruneConfig(amount=0), "prunes no layer of the model; its layers start with 0 \\(Conv2d\\)"),
    ],
)
def test_a_choice_that_matches_nothing_is_an_error_that_names_layers(config, message):
    with pytest.raises(UsageError, match=message):
        mapping(config)


@pytest.mark.parametrize(
    ("config", "section"),
    [(PruneConfig, PruneSection), (DistillConfig, DistillSection), (QuantizeConfig, QuantizeSection)],
    ids=["prune", "distill", "quantize"],
)
def test_every_option_of_the_step_is_a_parameter_or_belongs_to_the_loop_of_a_recipe(config, section):
    assert section.model_fields.keys() <= config().get_params_dict().keys() | config.of_a_recipe
    for name in config.of_a_recipe:
        with pytest.raises(UsageError, match=f"'{config.__name__}.{name}' belongs to the training of a recipe"):
            config(**{name: 1})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PruneConfig(amuont=0.3), r"unknown key 'PruneConfig.amuont' \(value 0.3\); did you mean 'amount'\?"),
        (lambda: PruneConfig(whitelist=["0"]), "'PruneConfig.whitelist'.*did you mean 'white_list'"),
        (lambda: PruneConfig.from_dict({"local": {"0": {"amout": 0}}}), "'PruneConfig.amout'.*mean 'amount'"),
        (lambda: DistillConfig(teacher="a/model"), "'DistillConfig.teacher'.*did you mean 'teacher_model'"),
        (lambda: DistillConfig(losses=[{"los": "kl"}]), "'DistillConfig.losses.0.los'.*did you mean 'loss'"),
        (
            lambda: DistillConfig(loss="hint", layers={"1": "1"}),
            "unknown distillation loss 'hint'; did you mean 'hints'",
        ),
        (lambda: PruneConfig(importance="l7"), "PruneConfig.importance.*unknown importance 'l7'"),
        (lambda: PruneConfig(amount=1.5), "PruneConfig.amount"),
        (lambda: PruneConfig(rounds=0), "'PruneConfig.rounds' cannot be 0"),
        (lambda: PruneConfig(scope=["layer", "global"]).section(), "PruneConfig.scope"),
        (
            lambda: PruneConfig(dim=0, granularity="channel"),
            "dim does nothing here: slices of weights are of granularity 'weight', not of 'channel'",
        ),
        (lambda: DistillConfig(loss="mae"), "DistillConfig.loss.*unknown distillation loss"),
        (lambda: DistillConfig(loss="mse").teacher(), "DistillConfig has no teacher"),
        (lambda: PruneConfig() + RTNConfig(), "RTNConfig cannot share a training"),
        (lambda: Composition([PruneConfig(), PruneConfig()]), "each algorithm once"),
        (lambda: Composition.from_dict({"prun": {}}), "unknown algorithm 'prun'; did you mean 'prune'"),
    ],
)
def test_wrong_values_are_one_sentence(build, message):
    with pytest.raises(UsageError, match=message):
        build()


@pytest.mark.parametrize(
    "config",
    [
        PruneConfig(amount=0.3, dim=1),
        PruneConfig(amount=[0.5, 0.3]),
        PruneConfig(amount=0.3, white_list=["0", nn.Linear]),
        PruneConfig(amount=0.3).set_local("2", PruneConfig(amount=0.6, importance="ln", n=3.0)),
        DistillConfig(teacher_model="a/model", loss="kl", temperature=2.0, standardize=True),
        DistillConfig(teacher_model="a/model", losses=[{"loss": "kl"}, {"loss": "hints", "layers": {"0": "0"}}]),
    ],
)
def test_dict_and_json_file_round_trip(config, tmp_path):
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
    config.to_json_file(tmp_path / "config.json")
    assert type(config).from_json_file(tmp_path / "config.json") == config
    assert type(config).from_dict(config.to_dict()) != type(config)()


def test_a_composition_keeps_global_configs_and_reads_both_algorithms_back(tmp_path):
    both = PruneConfig(amount=0.3) + DistillConfig(teacher_model="a/model")
    model = network()
    found = both.to_config_mapping(model_info=both.get_model_info(model))
    assert [config.name for config in found.values()] == ["prune", "prune", "prune", "distill"]
    both.to_json_file(tmp_path / "config.json")
    assert Composition.from_json_file(tmp_path / "config.json") == both
    assert (DistillConfig(teacher_model="a/model") + PruneConfig(amount=0.3)).to_dict() == both.to_dict()


def test_lists_expand_into_one_config_a_value_also_in_a_composition():
    assert [config.amount for config in PruneConfig(amount=[0.8, 0.5]).expand()] == [0.8, 0.5]
    both = PruneConfig(amount=[0.8, 0.5]) + DistillConfig(teacher_model="a/model", loss="kl", temperature=[2.0, 4.0])
    assert [(a.amount, b.temperature) for a, b in (c.config_list for c in both.expand())] == [
        (0.8, 2.0),
        (0.8, 4.0),
        (0.5, 2.0),
        (0.5, 4.0),
    ]
    chosen = PruneConfig(amount=[0.8, 0.5], white_list=["2"]).set_local("3", PruneConfig(amount=0.2))
    assert [mapping(config) for config in chosen.expand()] == [{"2": 0.8, "3": 0.2}, {"2": 0.5, "3": 0.2}]
    several = DistillConfig(teacher_model="a/model", losses=[{"loss": "kl"}, {"loss": "ce"}])
    assert several.expand() == [several]
    assert PruneConfig().get_config_set_for_tuning().expand()[0].amount == 0.8


def test_a_teacher_is_written_by_its_name_or_left_out():
    teacher = network()
    assert DistillConfig(teacher_model=teacher).to_dict()["teacher_model"] is None
    teacher.name_or_path = "a/model"
    assert DistillConfig(teacher_model=teacher).to_dict()["teacher_model"] == "a/model"
