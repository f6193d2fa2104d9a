"""Any shape, layout, window, type and kind of values: every op against its decomposition."""

import hypothesis.strategies as st
import pytest
from cases import integers, normal, specials
from fuzzing import cases, examples
from harness import CPU, FLOATS, TRITON, call_of, check_accurate, params, worst_growth
from hypothesis import given

from torchext.ops import OPS

each_op = pytest.mark.parametrize("op", OPS)
isas = st.sampled_from([one for one in CPU if not one.why_not()])
dtypes = st.sampled_from(FLOATS)
kinds = st.sampled_from([normal, integers, specials])


def check(op, case, dtype, values, backend):
    backend.use()
    call = call_of.__wrapped__(op, case, dtype, values)  # not kept: no other test asks for it
    check_accurate(backend(op, *call.args), call, worst_growth(call))


@each_op
@examples(400)
@given(st.data(), dtypes, kinds, isas)
def test_cpu(op, data, dtype, values, backend):
    check(op, data.draw(cases(op)), dtype, values, backend)


@each_op
@pytest.mark.parametrize("backend", params([TRITON]))
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of numpy
@examples(8)
@given(st.data(), dtypes, kinds)
def test_triton(op, backend, data, dtype, values):
    check(op, data.draw(cases(op, most=3)), dtype, values, backend)
