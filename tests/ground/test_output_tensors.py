"""What a model says, whatever its form."""

import torch
from transformers.modeling_outputs import BaseModelOutput

from hf_compress.ground.outputs import output_tensors


def test_all_floating_tensors_have_names_in_the_order_of_the_output():
    zero, one, two = (torch.full((1,), float(value)) for value in range(3))
    output = BaseModelOutput(last_hidden_state=zero, hidden_states=(one, (two, torch.ones(1, dtype=torch.long))))
    found = output_tensors(output)
    assert list(found) == ["last_hidden_state", "hidden_states.0", "hidden_states.1.0"]
    assert [tensor.item() for tensor in found.values()] == [0, 1, 2]


def test_a_tensor_has_a_name_too_and_what_is_none_is_left_out():
    assert list(output_tensors(torch.ones(2))) == ["output"]
    assert output_tensors({"loss": None, "classes": torch.ones(1, dtype=torch.bool), "text": "a"}) == {}
