"""Models that choose places of an image are compared at the same places."""

import torch
from torch import nn

from hf_compress.ground.choices import Choices
from hf_compress.ground.outputs import deployed_tensors, output_tensors
from hf_compress.steps.pruning.repair.lockstep import Lockstep


class Chooses(nn.Module):
    """Scores four places by a factor, and gives the two that score most to its last layer."""

    def __init__(self, factor):
        super().__init__()
        self.score, self.last = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.score.weight.data.fill_(factor)
        self.last.weight.data.fill_(10)

    def forward(self, pixel_values):
        scores = self.score(pixel_values)
        places = torch.topk(scores[..., 0], 2, dim=1).indices
        return self.last(scores.gather(1, places[..., None]))


PLACES = torch.tensor([[[1.0], [4.0], [2.0], [3.0]]])


def test_a_model_repeats_what_another_chose():
    first, second, choices = Chooses(1.0), Chooses(-1.0), Choices()
    with torch.no_grad():
        with choices.recorded():
            assert first(PLACES).flatten().tolist() == [40, 30]
        assert second(PLACES).flatten().tolist() == [-10, -20]
        for _ in range(2):
            with choices.repeated():
                assert second(PLACES).flatten().tolist() == [-40, -30]


def test_a_pass_chooses_what_the_one_that_leads_it_has_chosen():
    first, second = Chooses(1.0), Chooses(-1.0)
    with Lockstep((first, second)) as lockstep:
        leader = lockstep.start(first, PLACES, {})
        follower = lockstep.start(second, PLACES, {}, leader)
        for layer in ("score", "last"):
            leader.to(layer)
            follower.to(layer)
        assert leader.source.flatten().tolist() == [4, 3] and follower.source.flatten().tolist() == [-4, -3]


def test_of_a_detector_only_its_answers_are_deployed_and_what_its_loss_reads_is_no_output():
    names = ("logits", "pred_boxes", "last_hidden_state", "enc_topk_logits", "init_reference_points")
    output = {name: torch.ones(1) for name in names}
    assert list(output_tensors(output)) == ["logits", "pred_boxes", "last_hidden_state"]
    assert list(deployed_tensors(output)) == ["logits", "pred_boxes"]
    plain = {"logits": torch.ones(1), "enc_features": torch.ones(1)}
    assert list(deployed_tensors(plain)) == list(output_tensors(plain)) == ["logits", "enc_features"]
