"""Values and gradients against figures that the paper's reference implementation computed (`fixtures/make_golden.py`).

Float64 throughout, tolerance 1e-9, except for the tiny backbones, whose figures are in single precision. Where we
differ from the reference on purpose, a test states both numbers.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertModel, ViTConfig, ViTModel
from transformers.modeling_outputs import BaseModelOutput

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE, VariationalMixtureOfExperts
from modeling_mgvmoe.modeling_mgvmoe import fuse, token_mean
from modeling_mgvmoe.objectives import gaussian_kl, info_nce, ranking_loss, router_entropy
from modeling_mgvmoe.sample_graph import (
    adversarial_consistency,
    cosine_graph,
    learned_adversary_loss,
    neighbour_agreement,
)

pytestmark = pytest.mark.numerical

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
GOLDEN = load_file(FIXTURES / "golden.safetensors")
INFORMATION = json.loads((FIXTURES / "golden.json").read_text(encoding="utf-8"))
TASKS = ("typing", "relation")


def case(prefix: str) -> dict[str, torch.Tensor]:
    """The figures of one case, by their names without the prefix; copies, so that no test changes another's."""
    return {
        name.removeprefix(f"{prefix}."): value.clone()
        for name, value in GOLDEN.items()
        if name.startswith(f"{prefix}.")
    }


def close(ours: torch.Tensor, golden: torch.Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, golden, rtol=0, atol=tolerance)


def single_noise(
    experts: VariationalMixtureOfExperts, states: torch.Tensor, noise_per_expert: torch.Tensor
) -> torch.Tensor:
    """The one noise vector per token that does what the reference's K vectors e_k do (E3).

    noise = sum_k p_k exp(s_k/2) e_k / sqrt(sum_k p_k^2 exp(s_k)). It depends on p and s, so nothing is detached: the
    gradient of the mixture through it and through the root together is the gradient of the reference.
    """
    probs = experts.router(states).softmax(-1).unsqueeze(-2)
    log_variances = experts.expert_log_variances(states).unflatten(-1, (-1, experts.num_experts))
    deviations = probs * (log_variances / 2).exp()
    return (deviations * noise_per_expert).sum(-1) / deviations.square().sum(-1).sqrt()


@pytest.fixture
def golden_experts():
    golden = case("experts")
    experts = VariationalMixtureOfExperts(golden["inputs"].shape[-1], golden["router_probs"].shape[-1]).double()
    experts.load_state_dict({name[8:]: value for name, value in golden.items() if name.startswith("weights.")})
    return experts, golden


class TestExperts:
    def test_experts_give_the_values_of_the_reference_for_its_noise(self, golden_experts):
        experts, golden = golden_experts
        noise = single_noise(experts, golden["inputs"], golden["noise_per_expert"])
        output = experts(golden["inputs"], noise=noise)
        for name in ("hidden_states", "router_probs", "kl_loss", "router_entropy"):
            close(output[name], golden[name])

    def test_experts_give_the_gradients_of_the_reference_for_its_noise(self, golden_experts):
        experts, golden = golden_experts
        inputs = golden["inputs"].requires_grad_()
        output = experts(inputs, noise=single_noise(experts, inputs, golden["noise_per_expert"]))
        total = (output.hidden_states * golden["cotangent"]).sum() + output.kl_loss + output.router_entropy
        total.backward()
        close(inputs.grad, golden["gradients.inputs"])
        for name, parameter in experts.named_parameters():
            close(parameter.grad, golden[f"gradients.{name}"])

    def test_pure_objectives_give_the_values_of_the_reference(self, golden_experts):
        experts, golden = golden_experts
        # (B, L, H*K) and (B, L, H, K) alike: everything after L is summed.
        close(gaussian_kl(golden["means"], golden["log_variances"]), golden["kl_loss"])
        per_expert = (-1, experts.num_experts)
        means, log_variances = (golden[name].unflatten(-1, per_expert) for name in ("means", "log_variances"))
        close(gaussian_kl(means, log_variances), golden["kl_loss"])
        close(router_entropy(experts.router(golden["inputs"])), golden["router_entropy"])

    def test_difference_evaluation_takes_the_mean_where_the_reference_draws(self, golden_experts):
        experts, golden = golden_experts
        experts.eval()
        ours = experts(golden["inputs"]).hidden_states
        means = golden["means"].unflatten(-1, (-1, experts.num_experts))
        close(ours, torch.einsum("blhk,blk->blh", means, golden["router_probs"]))
        assert torch.equal(ours, experts(golden["inputs"]).hidden_states)
        # The reference's evaluation is ours with the noise given.
        assert (ours - golden["hidden_states"]).abs().max() > 0.1
        noise = single_noise(experts, golden["inputs"], golden["noise_per_expert"])
        close(experts(golden["inputs"], noise=noise).hidden_states, golden["hidden_states"])

    def test_difference_padding_does_not_enter_the_losses(self, golden_experts):
        experts, golden = golden_experts
        inputs = golden["inputs"]
        padded = torch.cat([inputs, torch.randn_like(inputs[:, :3])], dim=1)
        mask = (torch.arange(padded.shape[1]) < inputs.shape[1]).expand(padded.shape[:2])
        output = experts.eval()(padded, attention_mask=mask)
        close(output.kl_loss, golden["kl_loss"])
        close(output.router_entropy, golden["router_entropy"])
        # The reference takes the mean over the padding too.
        assert (experts(padded).kl_loss - golden["kl_loss"]).abs() > 1e-3


class TestGraph:
    @pytest.mark.parametrize("regime", ["moderate", "saturated"])
    def test_graph_and_agreement_have_the_values_of_the_reference(self, regime):
        golden = case(f"graph.{regime}")
        graph = cosine_graph(golden["nodes"])
        close(graph, golden["graph"])
        close(neighbour_agreement(golden["nodes"], graph), golden["logits"])
        perturbed = golden["nodes"] + golden["perturbation"]
        close(neighbour_agreement(perturbed, graph), golden["perturbed_logits"])

    def test_consistency_has_the_value_and_gradients_of_the_reference(self):
        golden = case("graph.moderate")
        assert INFORMATION["graph.moderate"]["rows_clipped"] == 0
        nodes, perturbation = golden["nodes"].requires_grad_(), golden["perturbation"].requires_grad_()
        loss = adversarial_consistency(nodes, perturbation)
        loss.backward()
        close(loss, golden["consistency_loss"])
        close(nodes.grad, golden["gradients.consistency_of_nodes"])
        close(perturbation.grad, golden["gradients.consistency_of_perturbation"])

    def test_learned_adversary_gets_the_gradient_of_the_reference_s_own_step(self):
        golden = case("graph.moderate")
        nodes, perturbation = golden["nodes"].requires_grad_(), golden["perturbation"].requires_grad_()
        loss = learned_adversary_loss(nodes, perturbation)
        loss.backward()
        close(loss, golden["consistency_loss"])
        close(nodes.grad, golden["gradients.consistency_of_nodes"])
        close(perturbation.grad, golden["gradients.adversary_of_perturbation"])

    def test_difference_saturated_posts_are_exact_where_the_reference_clips(self):
        golden, information = case("graph.saturated"), INFORMATION["graph.saturated"]
        nodes, perturbation = golden["nodes"].requires_grad_(), golden["perturbation"].requires_grad_()
        graph = cosine_graph(nodes)
        clean = neighbour_agreement(nodes, graph).log_softmax(-1)
        perturbed = neighbour_agreement(nodes + perturbation, graph).log_softmax(-1)

        # The reference: both clipped to [1e-7, 1], not normalised again. Reproduced from our logits, with gradients.
        p, n = (value.exp().clamp(information["clip"], 1) for value in (clean, perturbed))
        clipped_rows = (p * (p / n).log()).sum(-1)
        close(clipped_rows, golden["kl_rows"])
        gradients = torch.autograd.grad(clipped_rows.mean(), (nodes, perturbation), retain_graph=True)
        close(gradients[0], golden["gradients.consistency_of_nodes"])
        close(gradients[1], golden["gradients.consistency_of_perturbation"])

        # Ours: the exact KL, which is theirs in the row where nothing is clipped. Elsewhere the reference gives,
        # in turn, 3.7e-9, -8.9e-16, 0 and 0, and the exact values are 2.9e-9, 1.0e-15, 8.5e-16 and 6.0e-27.
        exact_rows = (clean.exp() * (clean - perturbed)).sum(-1)
        clipped = torch.minimum(clean.exp(), perturbed.exp()).amin(-1) < information["clip"]
        assert int(clipped.sum()) == information["rows_clipped"]
        close(exact_rows[~clipped], golden["kl_rows"][~clipped])
        close(adversarial_consistency(nodes, perturbation), exact_rows.mean())
        assert (exact_rows[clipped] > 0).all()
        assert ((golden["kl_rows"][clipped] / exact_rows[clipped] - 1).abs() > 0.2).all()


class TestAlignment:
    def test_info_nce_has_the_value_and_gradients_of_the_reference(self):
        golden = case("info_nce.moderate")
        text, image = golden["text_embeds"].requires_grad_(), golden["image_embeds"].requires_grad_()
        loss = info_nce(text, image)
        loss.backward()
        close(loss, golden["loss"])
        close(text.grad, golden["gradients.text_embeds"])
        close(image.grad, golden["gradients.image_embeds"])

    def test_difference_both_directions_are_exact_where_the_reference_clips_one(self):
        golden = case("info_nce.saturated")
        text, image = golden["text_embeds"].requires_grad_(), golden["image_embeds"].requires_grad_()
        logits = text @ image.T
        over_images = -logits.log_softmax(1).diagonal()
        over_texts = -logits.log_softmax(0).diagonal()

        # The reference clips the probabilities over the texts to [1e-7, 1 - 1e-7], and those over the images not.
        clipped = -logits.softmax(0).diagonal().clamp(1e-7, 1 - 1e-7).log()
        close(clipped, golden["rows_over_texts"])
        close(over_images, golden["rows_over_images"])
        theirs = (clipped + over_images).mean() / 2
        close(theirs, golden["loss"])
        gradients = torch.autograd.grad(theirs, (text, image), retain_graph=True)
        close(gradients[0], golden["gradients.text_embeds"])
        close(gradients[1], golden["gradients.image_embeds"])

        ours = info_nce(text, image)
        close(ours, (over_texts + over_images).mean() / 2)
        # -log(1e-7) = 16.1 is the most that a row can cost the reference; the exact rows go beyond.
        assert golden["rows_over_texts"].max() < 16.2 < over_texts.max()
        assert ours > golden["loss"]
        stopped = (clipped - over_texts).abs() > 1e-12
        assert stopped.any()
        close(clipped[~stopped], over_texts[~stopped])


def test_ranking_loss_has_the_value_and_gradient_of_the_reference():
    golden = case("ranking")
    margin = INFORMATION["ranking"]["margin"]
    logits = golden["logits"].requires_grad_()
    loss = ranking_loss(logits, golden["labels"], margin)
    loss.backward()
    close(loss, golden["loss"])
    # Some entries lie exactly at the hinge, where the reference's subgradient is 0 as well.
    close(logits.grad, golden["gradients.logits"])
    rows = [ranking_loss(logits[row : row + 1], golden["labels"][row : row + 1], margin) for row in range(len(logits))]
    close(torch.stack(rows), golden["rows"])


class GivenStates(nn.Module):
    """Stands for the text encoder: gives the states that the reference's encoder had given."""

    def __init__(self, states: torch.Tensor):
        super().__init__()
        self.states = states

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs):
        assert input_ids.shape == self.states.shape[:2]
        return BaseModelOutput(last_hidden_state=self.states)


def golden_model(prefix: str, task: str, max_mentions: int | None = None) -> MGVMoEForZeroShotIE:
    """The whole model with the weights of the reference, its text encoder replaced by the states it had given.

    With more mention slots than the task has, the slots' columns are random: they meet zeros.
    """
    golden, information = case(prefix), INFORMATION[task]
    size = golden["text_states"].shape[-1]
    mentions = golden["mention_positions"].shape[1]
    max_mentions = max_mentions or mentions
    backbone = {"hidden_size": size, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 5}
    config = MGVMoEConfig.paper(
        "mre",
        text_config={"model_type": "bert", "vocab_size": 7, **backbone},
        vision_config={"model_type": "vit", "image_size": 4, "patch_size": 2, **backbone},
        num_experts=information["num_experts"],
        projection_dim=information["projection_dim"],
        max_mentions=max_mentions,
        projection_dropout=0.0,
        # E12: the reference has one coefficient, beta, for all terms but the ranking loss.
        **{
            f"{term}_loss_coef": information["auxiliary_coef"]
            for term in ("kl", "router_entropy", "alignment", "consistency")
        },
    )
    model = MGVMoEForZeroShotIE(config).double()
    weights = {name[8:]: value for name, value in golden.items() if name.startswith("weights.")}
    for name, first in (("mgvmoe.fusion_score.weight", 0), ("mention_projection.weight", size)):
        # Columns of the fusion: [q ; z]; of the projection: [f ; q]. q = [first token ; one slot per mention].
        end = first + (mentions + 1) * size
        extra = torch.randn(len(weights[name]), (max_mentions - mentions) * size, dtype=torch.float64)
        weights[name] = torch.cat([weights[name][:, :end], extra, weights[name][:, end:]], dim=1)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith(("mgvmoe.text_model.", "mgvmoe.vision_model.")) for name in missing)
    model.mgvmoe.text_model = GivenStates(golden["text_states"])
    return model


def golden_forward(model: MGVMoEForZeroShotIE, golden: dict[str, torch.Tensor], noise: str = "", **kwargs):
    experts = model.mgvmoe.experts
    return model(
        input_ids=torch.zeros(golden["text_states"].shape[:2], dtype=torch.long),
        mention_positions=golden["mention_positions"],
        image_features=golden["image_features"],
        candidate_embeds=golden["candidate_embeds"],
        labels=golden["labels"],
        text_noise=single_noise(experts, golden["text_states"], golden[f"{noise}text_noise_per_expert"]),
        image_noise=single_noise(experts, golden["image_features"], golden[f"{noise}image_noise_per_expert"]),
        **kwargs,
    )


# A typing model must give the same numbers with a second slot, which is empty.
@pytest.mark.parametrize("task, max_mentions", [("typing", 1), ("typing", 2), ("relation", 2)])
class TestWholeModel:
    def test_every_figure_between_the_backbones_and_the_scores_is_the_reference_s(self, task, max_mentions):
        golden = case(task)
        model = golden_model(task, task, max_mentions)
        mixtures = []
        model.mgvmoe.experts.register_forward_hook(lambda module, inputs, output: mixtures.append(output))
        output = golden_forward(model, golden)
        text, image = mixtures
        close(text.hidden_states, golden["text_mixture"])
        close(image.hidden_states, golden["image_mixture"])
        close(text.kl_loss, golden["text_kl"])
        close(image.kl_loss, golden["image_kl"])
        close(text.kl_loss + text.router_entropy, golden["text_bottleneck"])
        close(image.kl_loss + image.router_entropy, golden["image_bottleneck"])
        for name in ("text_embeds", "image_embeds", "mention_embeds", "logits"):
            close(output[name], golden[name])
        assert torch.equal(output.logits.argmax(-1), golden["predictions"])

    def test_the_fused_vector_and_the_mention_are_the_reference_s(self, task, max_mentions):
        golden = case(task)
        model = golden_model(task, task, max_mentions)
        outputs = []
        model.mgvmoe.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        attentions = golden_forward(model, golden).fusion_attentions
        close(outputs[0].fused_embeds, golden["fused_embeds"])
        states = torch.cat([golden["image_mixture"], golden["text_mixture"]], dim=1)  # image first
        close(torch.einsum("bl,blh->bh", attentions, states), golden["fused_embeds"])
        width = golden["mention_states"].shape[1]
        close(outputs[0].mention_states[:, :width], golden["mention_states"])
        assert not outputs[0].mention_states[:, width:].any()

    def test_every_loss_term_and_the_total_are_the_reference_s(self, task, max_mentions):
        golden = case(task)
        output = golden_forward(golden_model(task, task, max_mentions), golden)
        for name in ("ranking_loss", "alignment_loss", "consistency_loss", "loss"):
            close(output[name], golden[name])
        close(output.kl_loss, (golden["text_kl"] + golden["image_kl"]) / 2)
        close(
            output.kl_loss + output.router_entropy_loss, (golden["text_bottleneck"] + golden["image_bottleneck"]) / 2
        )
        auxiliary = output.kl_loss + output.router_entropy_loss + output.alignment_loss + output.consistency_loss
        close(auxiliary, golden["auxiliary_loss"])

    @pytest.mark.parametrize("training", [True, False])
    def test_the_gradient_of_the_total_is_the_reference_s_for_every_weight(self, task, max_mentions, training):
        golden = case(task)
        model = golden_model(task, task, max_mentions).train(training)
        golden_forward(model, golden).loss.backward()
        size = golden["text_states"].shape[-1]
        width = golden["mention_states"].shape[1]  # of q without the empty slot
        checked = 0
        for name, parameter in model.named_parameters():
            if f"gradients.{name}" not in golden:
                assert name == "perturbation" or name.startswith("mgvmoe.vision_model.")
                continue
            gradient = parameter.grad
            if name == "mgvmoe.fusion_score.weight":  # [q ; z]
                assert not gradient[:, width:-size].any()
                gradient = torch.cat([gradient[:, :width], gradient[:, -size:]], dim=1)
            if name == "mention_projection.weight":  # [f ; q]
                assert not gradient[:, size + width :].any()
                gradient = gradient[:, : size + width]
            close(gradient, golden[f"gradients.{name}"])
            checked += 1
        assert checked == 12

    def test_difference_the_perturbation_gets_the_reversed_gradient(self, task, max_mentions):
        golden = case(task)
        model = golden_model(task, task, max_mentions)
        golden_forward(model, golden).loss.backward()
        # Theirs is of -KL + ||d|| in a step of its own, without beta; ours comes with the coefficient of E11 in E12.
        close(
            model.perturbation.grad,
            INFORMATION[task]["auxiliary_coef"] * golden["gradients.adversary_of_perturbation"],
        )
        assert (model.perturbation.grad - golden["gradients.total_of_perturbation"]).abs().max() > 0.1

    def test_difference_evaluation_without_noise_is_repeatable_and_not_the_reference_s_draw(self, task, max_mentions):
        golden = case(task)
        model = golden_model(task, task, max_mentions).eval()
        inputs = {
            "input_ids": torch.zeros(golden["text_states"].shape[:2], dtype=torch.long),
            "mention_positions": golden["mention_positions"],
            "image_features": golden["image_features"],
            "candidate_embeds": golden["candidate_embeds"],
        }
        first, second = model(**inputs).logits, model(**inputs).logits
        assert torch.equal(first, second)
        assert (first - golden["logits"]).abs().max() > 0.05

    def test_difference_padding_changes_nothing(self, task, max_mentions):
        golden = case(task)
        model = golden_model(task, task, max_mentions)
        expected = golden_forward(model, golden)
        states = golden["text_states"]
        garbage = 10 * torch.randn_like(states[:, :4])
        model.mgvmoe.text_model = GivenStates(torch.cat([states, garbage], dim=1))
        length, total = states.shape[1], states.shape[1] + 4
        mask = (torch.arange(total) < length).long().expand(len(states), -1)
        experts = model.mgvmoe.experts
        noise = single_noise(experts, states, golden["text_noise_per_expert"])
        output = model(
            input_ids=torch.zeros(len(states), total, dtype=torch.long),
            attention_mask=mask,
            mention_positions=golden["mention_positions"],
            image_features=golden["image_features"],
            candidate_embeds=golden["candidate_embeds"],
            labels=golden["labels"],
            text_noise=torch.cat([noise, torch.randn_like(garbage)], dim=1),
            image_noise=single_noise(experts, golden["image_features"], golden["image_noise_per_expert"]),
        )
        close(output.logits, expected.logits)
        close(output.loss, expected.loss)
        close(output.text_embeds, golden["text_embeds"])
        # The reference's mean takes the padding in.
        assert (states.mean(1) - torch.cat([states, garbage], dim=1).mean(1)).abs().max() > 0.1


def test_additive_fusion_has_the_values_and_gradients_of_the_reference():
    golden = case("fusion")
    model = golden_model("typing", "typing").mgvmoe
    model.fusion_score.load_state_dict(
        {"weight": golden["weights.fusion_score.weight"], "bias": golden["weights.fusion_score.bias"]}
    )
    mention, states = golden["mention_states"].requires_grad_(), golden["states"].requires_grad_()
    fused, weights = fuse(model.fusion, mention, states, torch.ones(states.shape[:2], dtype=torch.bool))
    (fused * golden["cotangent"]).sum().backward()
    close(fused, golden["fused_embeds"])
    close(weights, golden["attentions"])
    close(states.grad, golden["gradients.states"])
    close(model.fusion_score.weight.grad, golden["gradients.fusion_score.weight"])
    close(model.fusion_score.bias.grad, golden["gradients.fusion_score.bias"])
    # w.q and b are the same for every token of a post and cancel in the softmax: the mention has no say.
    close(golden["gradients.mention_states"], torch.zeros_like(mention))
    close(mention.grad, torch.zeros_like(mention))
    close(model.fusion_score.weight.grad[:, : mention.shape[1]], torch.zeros(1, mention.shape[1]).double())


@pytest.mark.parametrize("task", TASKS)
def test_candidate_embeds_are_the_means_over_the_words_as_in_the_reference(task):
    golden = case(task)
    states = golden["candidate_states"].flatten(0, 1)  # theirs are per post: (B, C, Lc, H)
    model = golden_model(task, task)
    model.mgvmoe.text_model = GivenStates(states)
    embeds = model.get_candidate_embeds(torch.zeros(states.shape[:2], dtype=torch.long))
    close(embeds.unflatten(0, golden["candidate_embeds"].shape[:2]), golden["candidate_embeds"])
    mask = torch.ones(states.shape[:2])
    mask[:, -1] = 0
    close(token_mean(states, mask), states[:, :-1].mean(1))


@pytest.mark.parametrize("task", TASKS)
class TestStepOfTheReference:
    """The reference moves the perturbation twice a step: up the KL in its own pass, then down with the rest."""

    def test_difference_the_reference_s_perturbation_gets_two_adam_updates_from_one_counter(self, task):
        golden, information = case(f"{task}_step"), INFORMATION[f"{task}_step"]
        value = golden["weights.perturbation"]
        first_beta, second_beta = information["betas"]
        mean = square = torch.zeros_like(value)
        for step, part in enumerate(("first", "second"), start=1):
            gradient = golden[f"{part}.gradient"]
            mean = first_beta * mean + (1 - first_beta) * gradient
            square = second_beta * square + (1 - second_beta) * gradient.square()
            rate = information["learning_rate"] * (1 - second_beta**step) ** 0.5 / (1 - first_beta**step)
            value = value - rate * mean / (square.sqrt() + information["epsilon"])
            close(value, golden[f"{part}.perturbation_after"])

    def test_difference_the_second_update_descends_the_kl_that_the_first_ascended(self, task):
        golden = case(f"{task}_step")
        model = golden_model(f"{task}_step", task)
        start = golden["weights.perturbation"]

        def kl_and_slope(part: str, perturbation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output = golden_forward(model, golden, noise=f"{part}.")
            nodes = torch.cat([output.image_embeds, output.text_embeds], dim=-1).detach()
            perturbation = perturbation.clone().requires_grad_()
            kl = adversarial_consistency(nodes, perturbation)
            return kl.detach(), torch.autograd.grad(kl, perturbation)[0]

        _, slope = kl_and_slope("first", start)
        close(golden["first.gradient"], start / start.norm() - slope)  # of ||d|| - KL
        between = golden["first.perturbation_after"]
        kl, slope = kl_and_slope("second", between)
        close(golden["second.gradient"], INFORMATION[task]["auxiliary_coef"] * slope)  # of beta KL: the other sign
        assert kl_and_slope("second", between - 0.01 * golden["second.gradient"])[0] < kl

    def test_ours_gets_exactly_the_first_gradient(self, task):
        golden = case(f"{task}_step")
        model = golden_model(f"{task}_step", task).train()
        golden_forward(model, golden, noise="first.").consistency_loss.backward()
        close(model.perturbation.grad, golden["first.gradient"])


class TestTinyBackbones:
    def test_bert_gives_the_reference_s_states_at_real_positions(self):
        golden = case("text_tower")
        tower = BertModel(BertConfig(**INFORMATION["text_tower"]), add_pooling_layer=False).eval()
        tower.load_state_dict({name[8:]: value for name, value in golden.items() if name.startswith("weights.")})
        mask = (golden["input_ids"] != 0).long()
        assert 0 < mask.sum() < mask.numel()
        with torch.no_grad():
            # In double precision the difference is the rounding of the figures alone, which are in single precision.
            states = tower.double()(
                golden["input_ids"], attention_mask=mask, token_type_ids=golden["token_type_ids"]
            ).last_hidden_state
        close(states[mask.bool()], golden["output"][mask.bool()].double(), 1e-5)

    def test_vit_gives_the_reference_s_tokens(self):
        golden = case("vision_tower")
        tower = ViTModel(ViTConfig(**INFORMATION["vision_tower"]), add_pooling_layer=False).eval()
        tower.load_state_dict({name[8:]: value for name, value in golden.items() if name.startswith("weights.")})
        with torch.no_grad():
            tokens = tower.double()(golden["pixel_values"].double()).last_hidden_state
        close(tokens, golden["output"].double(), 1e-5)
