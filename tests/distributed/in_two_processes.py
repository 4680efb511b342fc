"""What tests/distributed/test_collectives.py runs in two processes at once, and once more in one: docs/distributed.md's examples, and checks.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.distributed.in_two_processes
"""
import re
import time
from pathlib import Path

import torch

from utils.distributed import collectives as dist
from utils.distributed.collectives import Ballot
from utils.distributed.group import process_group

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"
DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32,
          torch.float64)


def examples() -> dict[str, str]:
    """The page's python blocks, by the headings they stand under."""
    parts = re.split(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = [re.findall(r"^### (.+)$", text, flags=re.MULTILINE)[-1] for text in parts[0:-1:2]]
    return dict(zip(titles, parts[1::2], strict=True))


def cases() -> dict:
    """Everything there is to run: name -> callable."""
    checks = {name: function for name, function in globals().items() if name.startswith("check_")}
    return {title: lambda code=code: exec(code, {}) for title, code in examples().items()} | checks


def error_of(function, *args):
    """The error that a call raises; None where it raises none."""
    try:
        function(*args)
    except Exception as error:
        return error
    return None


def check_reductions_give_the_same_for_every_dtype_as_arithmetic_does():
    rank, size = dist.rank(), dist.world_size()
    theirs = torch.tensor([[0, 1, 1], [0, 1, 0]])[:size]
    for dtype in DTYPES:
        own = theirs[rank].to(dtype)
        for operation in ("max", "min"):
            result = dist.all_reduce(own, operation)
            assert result.dtype == dtype and torch.equal(result.long(), getattr(theirs, f"a{operation}")(0)), (dtype, operation)
        total, mean = dist.all_reduce(own), dist.all_reduce(own, "mean")
        expected = theirs.any(0) if dtype == torch.bool else theirs.sum(0)
        assert total.dtype == dtype and torch.equal(total.long(), expected.long()), dtype
        assert mean.is_floating_point() and torch.equal(mean.float(), theirs.float().mean(0)), dtype
    assert dist.all_reduce(torch.tensor(200, dtype=torch.uint8), "mean") == 200  # a sum of bytes would have run over
    assert "cannot add up torch.int16" in str(error_of(dist.all_reduce, torch.ones(2, dtype=torch.int16)))


def check_gathering_and_broadcasting_move_any_dtype():
    rank, size = dist.rank(), dist.world_size()
    for dtype in (*DTYPES, torch.int16, torch.complex64, torch.float8_e4m3fn):
        theirs = [torch.tensor([0, 1, 1, 0][: 3 + number]).to(dtype) for number in range(size)]
        gathered = dist.all_gather(theirs[rank])
        assert [g.dtype for g in gathered] == [dtype] * size
        assert all(torch.equal(g.to(torch.complex64), t.to(torch.complex64)) for g, t in zip(gathered, theirs, strict=True))
        into = torch.full((2,), rank).to(dtype)
        dist.broadcast_([into], source=size - 1)
        assert (into.to(torch.complex64) == size - 1).all()


def check_memory_layout_makes_no_difference():
    rank, size = dist.rank(), dist.world_size()
    matrix = torch.arange(6.0).view(2, 3)
    own = matrix.t().contiguous().t() if rank else matrix  # the same values, in another order in memory
    assert torch.equal(dist.all_reduce(own), matrix * size)
    assert torch.equal(dist.all_reduce(torch.ones(1).expand(4)), torch.full((4,), float(size)))
    assert all(torch.equal(gathered, matrix) for gathered in dist.all_gather(own))
    memory = torch.zeros(8)
    every_other, transposed = memory[::2], torch.full((2, 3), float(rank)).t()
    every_other += rank + 1
    dist.broadcast_([every_other, transposed], source=size - 1)
    assert every_other.eq(size).all() and memory[1::2].eq(0).all() and transposed.eq(size - 1).all()


def check_empty_unequal_and_0_dim_tensors_are_gathered_as_they_are():
    rank, size = dist.rank(), dist.world_size()
    for shapes in ([(0,), (0,)], [(0, 3), (2, 3)], [(3, 2, 2), (0, 2, 2)], [(), ()]):
        gathered = dist.all_gather(torch.full(shapes[rank], float(rank)))
        assert [tuple(g.shape) for g in gathered] == shapes[:size]
        assert all(g.eq(number).all() for number, g in enumerate(gathered))
    assert dist.all_reduce(torch.zeros(0)).shape == (0,) and dist.all_reduce(torch.tensor(1.0)).shape == ()
    dist.broadcast_([], source=size - 1)
    if size > 1:
        assert "first dimension only" in str(error_of(dist.all_gather, torch.zeros(2, 2 + rank)))
        assert "first dimension only" in str(error_of(dist.all_gather, torch.zeros(2, dtype=DTYPES[-1 - rank])))


def check_tensors_that_require_a_gradient_may_be_given():
    rank, size = dist.rank(), dist.world_size()
    weight = torch.nn.Parameter(torch.full((2,), float(rank)))
    reduced, (first, *_) = dist.all_reduce(weight * 2), dist.all_gather(weight * 2)
    assert not reduced.requires_grad and not first.requires_grad
    first += 1
    reduced += 1
    assert weight.eq(rank).all()  # results are new tensors, also in one process
    dist.broadcast_([weight], source=size - 1)
    assert weight.eq(size - 1).all() and weight.requires_grad and weight.is_leaf


def check_objects_may_be_big_and_come_from_any_process():
    rank, size = dist.rank(), dist.world_size()
    last = size - 1
    assert len(dist.broadcast_object(bytes(20_000_000) if rank == last else None, source=last)) == 20_000_000
    assert [len(value) for value in dist.all_gather_object(bytes(5_000_000 * (rank + 1)))] == [5_000_000, 10_000_000][:size]
    assert dist.broadcast_object({"rank": rank}, source=last) == {"rank": last}


def check_requests_are_agreed_upon():
    rank, last = dist.rank(), dist.world_size() - 1
    assert dist.agree(rank == last, False, 3 * rank, -rank) == (True, False, 3 * last, 0)
    assert dist.agree() == ()


def check_a_main_first_within_another_waits_for_its_own_body():
    with dist.main_first():
        with dist.main_first():
            pass
        time.sleep(0.2 * dist.is_main())
        ended = time.monotonic()
    assert dist.all_gather_object(ended)[-1] >= dist.all_gather_object(ended)[0]


def check_tensors_go_from_one_process_to_another():
    rank, size = dist.rank(), dist.world_size()
    for other in (rank, size, -1):
        for call in (dist.send, dist.receive):
            assert "no other process" in str(error_of(call, torch.zeros(2), other))
    assert "contiguous" in str(error_of(dist.receive, torch.zeros(2, 3).t(), 1 - rank))
    matrix = torch.arange(1_000_000.0, requires_grad=True).view(2, -1)
    for tensor in (matrix, matrix.t(), torch.tensor(3.0), torch.zeros(0), torch.tensor([True]), torch.ones(2).bfloat16()):
        if size > 1 and rank == 1:
            dist.send(tensor, to=0)
        elif size > 1:
            assert torch.equal(dist.receive(torch.zeros(tensor.shape, dtype=tensor.dtype), source=1), tensor)
    if size > 1:  # both at once, several under way, in order
        sent = [dist.send(torch.full((1000,), float(number)), 1 - rank, wait=False) for number in range(20)]
        into = [torch.empty(1000) for _ in range(20)]
        for work in [dist.receive(tensor, 1 - rank, wait=False) for tensor in into] + sent:
            work.wait()
        assert all(tensor.eq(number).all() for number, tensor in enumerate(into))


def check_votes_arrive_on_all_at_the_same_call_however_fast_they_run():
    rank, size = dist.rank(), dist.world_size()
    for pause_s, num_calls, latest in (([0, 0.002], 300, 100), ([0.002, 0], 300, 100), ([0, 0], 300, 100), ([0.12, 0], 15, 2)):
        arrived = []
        with Ballot() as ballot:
            for call in range(num_calls):
                time.sleep(pause_s[rank] if size > 1 else 0)
                if agreed := [*ballot(15 * (rank == size - 1 and call >= 10), 7 * (rank == 0 and call < 5))]:
                    arrived += [(call, *agreed)] if any(agreed) else []
                if call % 50 == 49:  # other messages in between change nothing
                    dist.barrier()
        assert len(set(map(str, dist.all_gather_object(arrived)))) == 1
        late = [call for call, signal_number, _ in arrived if signal_number == 15][0] - 10
        assert late == 0 if size == 1 else 0 < late <= latest  # within two periods, where steps take longer than one at once
        assert arrived[0][2] == 7


def check_a_ballot_may_be_left_at_any_call():
    for num_calls in range(8):
        with Ballot() as ballot:
            for call in range(num_calls):
                time.sleep(0.002 * dist.rank())
                ballot(call)
    stopped = error_of(_leave_by_an_error)
    assert isinstance(stopped, StopIteration)
    assert dist.all_reduce(torch.ones(1)) == dist.world_size()


def _leave_by_an_error():
    with Ballot() as ballot:
        for _ in range(500):
            if any(ballot(dist.is_main())):  # at the same call on all
                raise StopIteration


if __name__ == "__main__":
    with process_group(True, torch.device("cpu"), timeout_s=120):
        for name, run in cases().items():
            run()
            print(f"passed: {name} on {dist.rank()}\n", end="", flush=True)  # in one piece: the other writes, too
