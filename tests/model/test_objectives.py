"""The objectives against arithmetic done by hand, `torch.distributions` and explicit softmaxes (E4, E5, E6, E9)."""

import math

import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from modeling_mgvmoe.objectives import (
    _gold,
    at_least_float32,
    gaussian_kl,
    info_nce,
    label_cross_entropy,
    masked_mean,
    ranking_loss,
    router_entropy,
)

pytestmark = pytest.mark.numerical


@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_becomes_single_and_the_others_stay(given):
    values = at_least_float32(torch.ones(2, dtype=given))
    assert values.dtype == (torch.float64 if given == torch.float64 else torch.float32)


def test_mean_over_one_real_token_and_over_none():
    values, mask = torch.tensor([[6.0, 5.0]]), torch.tensor([[1, 0]])
    assert masked_mean(values, mask).item() == 6.0
    assert masked_mean(values, 0 * mask).item() == 0.0


def test_masks_may_be_numbers():
    logits, labels, mask = torch.tensor([[2.0, 1.5, 9.0]]), torch.tensor([0]), torch.tensor([[1, 1, 0]])
    # 1 - 2 + 1.5; log(1 + e^-0.5)
    assert ranking_loss(logits, labels, candidate_mask=mask).item() == 0.5
    assert label_cross_entropy(logits, labels, mask).item() == pytest.approx(0.474077, abs=1e-6)
    assert ranking_loss(logits, labels, candidate_mask=mask.float()).item() == 0.5
    for other in (mask, mask.float()):
        with pytest.raises(ValueError, match=r"hides those of \[0\]"):
            ranking_loss(logits, torch.tensor([2]), candidate_mask=other)


def test_labels_are_not_looked_at_while_torch_compiles(monkeypatch):
    # None of these labels is right, and the mask hides all candidates.
    logits, labels, mask = torch.zeros(2, 3), torch.tensor([5, -1]), torch.zeros(2, 3).bool()
    gold = torch.tensor([[True, False, False], [False, True, False]])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(torch.nn.functional, "one_hot", lambda *_: gold.long())
    assert torch.equal(_gold(logits, labels, mask), gold)


def test_losses_of_nothing_are_0():
    empty = torch.zeros(0, 4)
    assert info_nce(empty, empty).item() == 0.0


def test_temperature_of_info_nce_is_1_unless_it_is_given():
    text, image = torch.eye(2), torch.eye(2)
    # Both directions: log(1 + e^-1).
    assert info_nce(text, image).item() == pytest.approx(0.313262, abs=1e-6)


class TestRankingLoss:
    def test_ranking_loss_is_the_sum_worked_by_hand(self):
        logits = torch.tensor([[2.0, 1.5, -1.0, 3.0], [0.0, 0.25, 4.0, 1.0]], requires_grad=True)
        labels = torch.tensor([0, 2])
        # Post 0, score 2:  max(0, 1 - 2 + 1.5) = 0.5;  max(0, 1 - 2 - 1) = 0;  max(0, 1 - 2 + 3) = 2.  Sum 2.5.
        # Post 1, score 4:  1 - 4 + 0, 1 - 4 + 0.25, 1 - 4 + 1 are all below 0.                        Sum 0.
        loss = ranking_loss(logits, labels)
        assert loss.item() == (2.5 + 0.0) / 2
        loss.backward()
        # Two candidates of post 0 violate: each pulls its own score by 1/B = 1/2, the right score by -2/2.
        assert logits.grad.tolist() == [[-1.0, 0.5, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]]

    def test_margin_is_in_units_of_the_logits(self):
        logits, labels = torch.tensor([[3.0, 1.0, 2.5]]), torch.tensor([0])
        # margin 3: (3 - 3 + 1) + (3 - 3 + 2.5) = 3.5;  margin 0.25: 0 + max(0, 0.25 - 3 + 2.5) = 0.
        assert ranking_loss(logits, labels, margin=3.0).item() == 3.5
        assert ranking_loss(logits, labels, margin=0.25).item() == 0.0

    def test_subgradient_exactly_at_the_hinge_is_zero(self):
        logits = torch.tensor([[1.0, 0.0, 0.5]], requires_grad=True)
        # 1 - 1 + 0 = 0: at the hinge.  1 - 1 + 0.5 = 0.5: violated.
        loss = ranking_loss(logits, torch.tensor([0]))
        loss.backward()
        assert loss.item() == 0.5
        assert logits.grad.tolist() == [[-1.0, 0.0, 1.0]]

    def test_masked_candidates_take_no_part(self):
        logits = torch.tensor([[2.0, 1.5, 9.0], [0.0, 5.0, 0.5]])
        mask = torch.tensor([[True, True, False], [True, False, True]])
        # Post 0: 1 - 2 + 1.5 = 0.5.  Post 1: 1 - 0 + 0.5 = 1.5.  Mean 1.
        assert ranking_loss(logits, torch.tensor([0, 0]), candidate_mask=mask).item() == 1.0
        assert ranking_loss(logits, torch.tensor([0, 0]), candidate_mask=mask.long()).item() == 1.0

    def test_masked_logits_of_minus_infinity_give_finite_gradients(self):
        logits = torch.tensor([[2.0, 1.5, -math.inf], [0.0, -math.inf, 0.5]], requires_grad=True)
        loss = ranking_loss(logits, torch.tensor([0, 0]), candidate_mask=logits.detach().isfinite())
        loss.backward()
        assert loss.item() == 1.0
        assert logits.grad.tolist() == [[-0.5, 0.5, 0.0], [-0.5, 0.0, 0.5]]

    def test_a_post_with_one_candidate_costs_nothing(self):
        logits = torch.tensor([[-3.0], [7.0]], requires_grad=True)
        loss = ranking_loss(logits, torch.tensor([0, 0]))
        loss.backward()
        assert loss.item() == 0.0
        assert not logits.grad.any()

    def test_order_of_the_candidates_does_not_matter(self):
        logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.randint(5, (6,))
        order = torch.randperm(5)
        torch.testing.assert_close(
            ranking_loss(logits[:, order], order.argsort()[labels]), ranking_loss(logits, labels), rtol=0, atol=1e-12
        )

    @pytest.mark.parametrize(
        "logits, labels, mask, message",
        [
            (torch.zeros(2), [0, 0], None, r"logits must be \(B, C\) and labels \(B,\), got \(2,\) and \(2,\)"),
            (torch.zeros(2, 3), [0], None, r"got \(2, 3\) and \(1,\)"),
            (torch.zeros(2, 3), [0, 3], None, r"labels must be in \[0, 3\), got \[0, 3\]"),
            (torch.zeros(2, 3), [-100, 1], None, r"labels must be in \[0, 3\), got \[-100, 1\]"),
            (torch.zeros(2, 3), [0, 1], [[1, 1, 1], [1, 0, 1]], r"candidate_mask hides those of \[1\]"),
        ],
    )
    def test_wrong_arguments_are_named(self, logits, labels, mask, message):
        mask = None if mask is None else torch.tensor(mask)
        with pytest.raises(ValueError, match=message):
            ranking_loss(logits, torch.tensor(labels), candidate_mask=mask)


class TestLabelCrossEntropy:
    logits = torch.tensor([[0.0, math.log(3.0), math.log(4.0)], [math.log(5.0), 0.0, 7.0]])

    def test_worked_by_hand(self):
        # Post 0: exponentials 1, 3, 4, of which 3 is right. Post 1: 5 and 1, of which 5 is right; the third is masked.
        mask = torch.tensor([[True, True, True], [True, True, False]])
        loss = label_cross_entropy(self.logits, torch.tensor([1, 0]), mask)
        assert loss.item() == pytest.approx((math.log(8 / 3) + math.log(6 / 5)) / 2)

    def test_masking_by_minus_infinity_is_the_same(self):
        mask = torch.tensor([[True, True, True], [True, True, False]])
        masked = self.logits.masked_fill(~mask, float("-inf"))
        labels = torch.tensor([1, 0])
        assert torch.equal(label_cross_entropy(masked, labels), label_cross_entropy(self.logits, labels, mask))

    @pytest.mark.parametrize("loss", [label_cross_entropy, ranking_loss])
    def test_labels_are_checked_by_both(self, loss):
        with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got \[3, 0\]"):
            loss(self.logits, torch.tensor([3, 0]))
        mask = torch.tensor([[True, True, True], [False, True, True]])
        with pytest.raises(ValueError, match=r"candidate_mask hides those of \[1\]"):
            loss(self.logits, torch.tensor([1, 0]), candidate_mask=mask)


class TestGaussianKL:
    def test_kl_is_that_of_torch_distributions(self):
        means, log_variances = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 3, 4, 5).double()
        expected = kl_divergence(Normal(means, (log_variances / 2).exp()), Normal(0.0, 1.0))
        # Summed over (4, 5), mean over the 2 x 3 tokens.
        torch.testing.assert_close(gaussian_kl(means, log_variances), expected.sum((2, 3)).mean(), rtol=1e-12, atol=0)

    def test_kl_worked_by_hand(self):
        # -1/2 (1 + s - m^2 - e^s): m 2, s 0 -> -1/2 (1 - 4 - 1) = 2;  m 0, s ln 4 -> -1/2 (1 + 1.3863 - 4) = 0.8069.
        means = torch.tensor([[[2.0, 0.0]]])
        log_variances = torch.tensor([[[0.0, math.log(4.0)]]])
        assert gaussian_kl(means, log_variances).item() == pytest.approx(2 + 1.5 - math.log(2.0), rel=1e-6)

    def test_the_standard_normal_costs_nothing_and_is_the_minimum(self):
        means, log_variances = (torch.zeros(1, 2, 3, requires_grad=True) for _ in range(2))
        loss = gaussian_kl(means, log_variances)
        loss.backward()
        assert loss.item() == 0.0
        assert not means.grad.any() and not log_variances.grad.any()

    def test_padding_takes_no_part_even_if_it_is_not_finite(self):
        means, log_variances = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
        mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
        first = gaussian_kl(means[:1, :2], log_variances[:1, :2])
        second = gaussian_kl(means[1:, :1], log_variances[1:, :1])
        expected = (2 * first + second) / 3  # two real tokens and one
        means[1, 2] = math.nan
        log_variances[0, 2] = math.inf
        torch.testing.assert_close(gaussian_kl(means, log_variances, mask), expected)


class TestRouterEntropy:
    def test_entropy_is_that_of_torch_distributions(self):
        logits = torch.randn(2, 3, 4).double()
        expected = Categorical(logits=logits).entropy().mean()
        torch.testing.assert_close(router_entropy(logits), expected, rtol=1e-12, atol=0)

    def test_entropy_is_between_zero_and_the_logarithm_of_the_number_of_experts(self):
        assert router_entropy(torch.zeros(1, 2, 8)).item() == pytest.approx(math.log(8), rel=1e-6)
        assert router_entropy(torch.randn(1, 2, 1)).item() == 0.0  # one expert leaves no choice

    @pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
    def test_a_saturated_router_gives_neither_nan_value_nor_nan_gradient(self, size):
        logits = torch.tensor([[[size, -size, 0.0], [-size, -size, size]]], requires_grad=True)
        loss = router_entropy(logits)
        loss.backward()
        assert 0.0 <= loss.item() < 1e-40
        assert torch.isfinite(logits.grad).all()

    def test_padding_takes_no_part(self):
        logits = torch.randn(2, 3, 4)
        mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
        torch.testing.assert_close(router_entropy(logits, mask), router_entropy(logits[:, :2]))


class TestInfoNCE:
    @pytest.mark.parametrize("temperature", [1.0, 0.25])
    def test_info_nce_is_the_mean_of_two_explicit_softmaxes(self, temperature):
        text, image = torch.randn(5, 7).double(), torch.randn(5, 7).double()
        logits = [[float(t @ v) / temperature for v in image] for t in text]
        rows = []
        for post in range(5):
            over_images = math.exp(logits[post][post]) / sum(math.exp(value) for value in logits[post])
            over_texts = math.exp(logits[post][post]) / sum(math.exp(row[post]) for row in logits)
            rows.append(-(math.log(over_images) + math.log(over_texts)) / 2)
        assert info_nce(text, image, temperature).item() == pytest.approx(sum(rows) / 5, rel=1e-12)

    def test_text_and_image_are_on_equal_terms_and_so_are_the_posts(self):
        text, image, order = torch.randn(5, 7).double(), torch.randn(5, 7).double(), torch.randperm(5)
        expected = info_nce(text, image)
        torch.testing.assert_close(info_nce(image, text), expected)
        torch.testing.assert_close(info_nce(text[order], image[order]), expected)

    def test_large_products_are_finite_in_value_and_gradient(self):
        text = (100 * torch.randn(4, 8)).requires_grad_()
        loss = info_nce(text, 100 * torch.randn(4, 8))
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(text.grad).all()

    def test_one_pair_costs_nothing_and_no_pair_keeps_a_gradient(self):
        assert info_nce(torch.randn(1, 8), torch.randn(1, 8)).item() == 0.0
        text = torch.zeros(0, 8, requires_grad=True)
        loss = info_nce(text, torch.zeros(0, 8))
        loss.backward()
        assert loss.item() == 0.0

    def test_shapes_that_do_not_fit_are_named(self):
        with pytest.raises(ValueError, match=r"must both be \(N, H\), got \(2, 3\) and \(3, 3\)"):
            info_nce(torch.zeros(2, 3), torch.zeros(3, 3))


def test_masked_mean_without_a_real_token_is_zero_and_without_a_mask_the_plain_mean():
    values = torch.tensor([[1.0, 2.0, 6.0]])
    assert masked_mean(values).item() == 3.0
    assert masked_mean(values, torch.tensor([[1, 1, 0]])).item() == 1.5
    assert masked_mean(values, torch.zeros(1, 3)).item() == 0.0
