"""The conformance kit, put to torchloss's own losses."""

import pytest

import torchloss.functional
from torchloss.testing import CHECKS, Problem
from torchloss.testing.losses import DEVICES, EVERY, FEW, WITH_OPTIONS, function

pytestmark = pytest.mark.usefixtures("one_thread")
# By their numbers in docs/failures.md: what has gone wrong elsewhere and the check sees.
FAILURES = {
    "targets_of_a_byte": (11,),
    "masked_classes": (22,),
    "common_offset": (24, 25),
    "broadcast": (44,),
    "compile_in_bfloat16": (78,),
    "edge": (1, 6, 9, 11, 12, 14, 20, 22, 23, 42),
    "value": (8, 9, 18),
    "any_layout": (10, 56, 59),
    "gradient": (19, 64, 65, 66),
    "empty": (20,),
    "every_width": (26, 28, 50),
    "exact_at_any_margin": (29,),
    "bfloat16_gradient": (30, 32, 34),
    "bfloat16": (33,),
    "float16": (33, 38),
    "sums_of_16_bit_numbers": (34,),
    "gradient_of_the_target": (45,),
    "strides_beyond_2_31": (49,),
    "inputs_untouched": (51, 52, 53),
    "modified_in_place": (53,),
    "second_backward": (54, 55),
    "any_layout_of_the_gradient": (65,),
    "first": (66,),
    "batched_gradients": (66,),
    "no_gradient_wanted": (67,),
    "second": (68, 69),
    "second_of_both": (68, 69),
    "second_forward_over_reverse": (68,),
    "func_grad": (71,),
    "vmap": (71,),
    "vmap_of_grad": (71,),
    "grad_of_vmap": (71,),
    "jacrev_of_jacrev": (71,),
    "jvp": (72,),
    "jvp_of_the_target": (72,),
    "first_forward": (72,),
    "hessian": (72,),
    "second_in_any_order": (99,),
    "second_of_both_in_any_order": (99,),
    "hessians_in_any_order": (99,),
    "compile_of_second_derivatives": (100,),
    "the_same_bits_every_run": (77,),
    "the_same_bits_on_any_number_of_threads": (77,),
    "autocast": (78,),
    "opcheck": (79,),
    "meta_tensors": (79,),
    "compile_to_one_graph": (80,),
    "compile_once_for_all_sizes": (80,),
}


def problem(device, loss):
    return Problem(function(torchloss.functional, loss.name), loss.name, (loss,), device)


# One Function of each kind, and of options those that change what is traced: each check of the compiler takes seconds.
COMPILED = {
    "huber_loss",
    "cross_entropy-index-label_smoothing=0.1",
    "cross_entropy-probs",
    "kl_div_with_logits-temperature=2",
    "softmax",
    "softmax_entropy-row_weight-normalizer=2.5",
    "logit_stats-softcap=3-logit_scale=0.7",
}


def cases():
    for device in DEVICES:
        for name, check in CHECKS.items():
            rows = [*FEW, *WITH_OPTIONS[-4:]] if check.group == "torch.compile" else EVERY  # it takes long
            for loss in {row.name: row for row in rows}.values() if check.row_each else rows:
                if next(iter(check.trials(problem(device, loss))), None) is not None:  # it applies
                    slow = check.slow or name == "opcheck"  # which test_ops.py does for every row
                    slow |= check.group == "torch.compile" and str(loss) not in COMPILED
                    marks = [pytest.mark.slow] if slow else []
                    marks += [pytest.mark.failure(*FAILURES[name])] if name in FAILURES else []
                    yield pytest.param(device, name, loss, id=f"{device}-{name}-{loss}", marks=marks)


@pytest.mark.parametrize("device, name, loss", list(cases()))
def test_check(device, name, loss):
    for row in CHECKS[name].run(problem(device, loss)):
        assert row.outcome == "pass", f"{row.detail} [{row.where}]\n\n{row.reproduction}"
