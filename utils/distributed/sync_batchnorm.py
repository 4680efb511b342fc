"""BatchNorm over the batches of all processes: torch's SyncBatchNorm for CUDA, and the same for the CPU."""
import torch
from torch import nn

from utils.distributed import collectives as dist


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes. All their losses depend on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, tensor):
        return dist.all_reduce(tensor)

    @staticmethod
    def backward(ctx, gradient):
        return dist.all_reduce(gradient)


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm, also for the CPU. Inputs `[B, C, ...]`; B may differ between processes."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.device.type != "cpu" or not self.training or dist.world_size() == 1:
            return super().forward(inputs)
        self._check_input_dim(inputs)
        dims = [dim for dim in range(inputs.ndim) if dim != 1]
        shape = [1, -1] + [1] * (inputs.ndim - 2)
        values = inputs.float()
        num_own = values.new_tensor([values.numel() / values.shape[1]])
        sums = _SumOverProcesses.apply(torch.cat([values.sum(dims), num_own]))
        count = sums[-1].detach()
        mean = sums[:-1] / count  # [C]
        centred = values - mean.view(shape)
        variance = _SumOverProcesses.apply(centred.square().sum(dims)) / count  # [C]
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * count / (count - 1))
        outputs = centred * (variance + self.eps).rsqrt().view(shape)
        outputs = outputs * self.weight.view(shape) + self.bias.view(shape) if self.affine else outputs
        return outputs.to(inputs.dtype)

    @torch.no_grad()
    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        self.num_batches_tracked += 1
        rate = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(variance, rate)


def convert_sync_batchnorm(model: nn.Module) -> nn.Module:
    """Replaces every BatchNorm in `model` by a SyncBatchNorm of the same name. Returns the model."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.SyncBatchNorm:
            module.__class__ = SyncBatchNorm  # same tensors, different forward
    return model
