"""LPIPS, the perceptual distance (E.3, F.1), with an announced fallback where its ImageNet trunk cannot be had.

The ``lpips`` package brings the published linear heads; the trunk (5 MB SqueezeNet, 9 MB AlexNet, 528 MB VGG-16) is
looked for in the torch hub cache, then in ``RLVR_SHARED_DATA/lpips``; set-up may fetch it, a run never does. Variants
differ in scale and are never compared: the name says which one it is.
"""

import copy
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import h5py
import lpips
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlvr_lib.artifacts import UserError
from rlvr_lib.compiled import Compiled, cudnn
from rlvr_lib.doctor import TRUNKS, shared_data, trunks_found
from rlvr_lib.progress import say
from rlvr_lib.worlds.video_metrics import WINDOW, ssim_terms

NAMES = {"squeeze": "LPIPS-Squeeze", "vgg": "LPIPS-VGG", "alex": "LPIPS-Alex"}
FALLBACK = "1 - MS-SSIM"
# Layers of torchvision's trunk per slice of the Keras files: plain convolutions, or fire modules in their order.
SLICES = {
    "alex": ((0,), (3,), (6,), (8,), (10,)),
    "squeeze": ((0,), (3, 4), (6, 7), (9,), (10,), (11,), (12,)),
}
FIRE = {"squeeze": "layers/sequential", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of MS-SSIM (Wang, Simoncelli and Bovik, 2003)


class Perceptual(nn.Module):
    """Frozen distance between frames float32 [..., 3, H, W] in [0, 1] -> float32 [...]; differentiable in both.

    ``name`` is what columns and captions must say.
    """

    def __init__(self, name: str, distance: nn.Module):
        super().__init__()
        self.name, self.distance = name, distance.eval().requires_grad_(False)

    def forward(self, truth: Tensor, prediction: Tensor) -> Tensor:
        if truth.shape != prediction.shape or truth.dim() < 4:
            raise ValueError(f"frames of one shape wanted, not {tuple(truth.shape)} and {tuple(prediction.shape)}")
        first, second = (frames.flatten(0, -4).float() for frames in (truth, prediction))
        exact = {} if torch.is_grad_enabled() else {"allow_tf32": False}  # tables are made without gradients
        with torch.autocast(first.device.type, enabled=False), cudnn(**exact):  # MS-SSIM's variances vanish in bfloat16
            return self.distance(first, second).reshape(truth.shape[:-3])

    @torch.no_grad()
    def to_group(self, truth: Tensor, predictions: Tensor, exact: bool = False) -> Tensor:
        """Truth [P, K, 3, H, W] against G predictions of it [P, G, K, 3, H, W] -> [P, G, K], the truth read once.

        For training rewards: on a GPU LPIPS takes its features in bfloat16 (what follows them stays float32). ``exact``
        is for tables: there it is :meth:`forward`, truth after truth.
        """
        if truth.shape != predictions[:, 0].shape:
            raise ValueError(f"no group of predictions: {tuple(truth.shape)} and {tuple(predictions.shape)}")
        if exact and truth.is_cuda:
            return torch.stack(
                [self(one.expand_as(group), group) for one, group in zip(truth, predictions, strict=True)]
            )
        shape = predictions.shape[:3]
        with torch.autocast(truth.device.type, enabled=False):
            first = self.distance.features(truth.flatten(0, 1).float())
            second = self.distance.features(predictions.flatten(0, 2).float())
            layers = zip(first, second, strict=True)
            pairs = [(a.unflatten(0, (shape[0], 1, shape[2])), b.unflatten(0, shape)) for a, b in layers]
            return self.distance.compare(pairs)

    def train(self, mode: bool = True) -> "Perceptual":
        """Stays in evaluation mode: a loss has no dropout."""
        return super().train(False)


def perceptual(net: str = "squeeze", device: str = "cpu") -> Perceptual:
    """LPIPS on the trunk ``net``, or 1 - MS-SSIM under that name, with a line that says so, when there is none."""
    if net not in NAMES:
        raise UserError(f"video.metric: no LPIPS net {net!r}; there are {', '.join(NAMES)}")
    weights = trunk_weights(net)
    if weights is None:
        say(f"FALLBACK: no {net} trunk for LPIPS on this machine (rlvr doctor says where to put it); using {FALLBACK}")
        return structural_distance(device)
    return Perceptual(NAMES[net], _Lpips(net, weights)).to(device)


def structural_distance(device: str = "cpu") -> Perceptual:
    """1 - MS-SSIM in [0, 1] under that name: what stands in for LPIPS, or what a tokenizer is asked to learn by."""
    return Perceptual(FALLBACK, MultiScaleDissimilarity()).to(device)


class _Lpips(nn.Module):
    def __init__(self, net: str, weights: dict[str, Tensor]):
        super().__init__()
        with warnings.catch_warnings():  # the package calls torchvision in its former way
            warnings.simplefilter("ignore", UserWarning)
            self.model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        slices = {".".join(key.split(".")[1:]): key for key in self.model.net.state_dict()}
        self.model.net.load_state_dict({slices[key]: value for key, value in weights.items() if key in slices})
        self._trunks: dict[torch.device, nn.Module] = {}  # copies for use, by device: the weights may move

    def forward(self, truth: Tensor, prediction: Tensor) -> Tensor:
        return self.model(2 * truth - 1, 2 * prediction - 1).flatten()

    def features(self, frames: Tensor) -> list[Tensor]:
        """Frames [B, 3, H, W] in [0, 1] -> the trunk's layers [B, C, h, w], channels last; no gradient.

        Float32 on a CPU (1.5 times faster so), bfloat16 on a GPU.
        """
        trunk, scaled = self._trunk(frames.device), self.model.scaling_layer(2 * frames - 1)
        if not frames.is_cuda:
            return list(trunk(scaled.contiguous(memory_format=torch.channels_last)))
        scaled = _filled_up(scaled, 1).to(torch.bfloat16, memory_format=torch.channels_last)
        with cudnn(benchmark=True):
            return _layers(trunk, scaled)

    def _trunk(self, device: torch.device) -> nn.Module:
        if device not in self._trunks:
            trunk = copy.deepcopy(self.model.net).to(device)
            if device.type == "cuda":
                first = trunk.slice1[0]
                first.weight.data = _filled_up(first.weight.data, 1)
                trunk.to(torch.bfloat16)
            self._trunks = {device: trunk.to(memory_format=torch.channels_last)}
        return self._trunks[device]

    def compare(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Features [..., C, h, w] twice per layer, broadcast against each other -> distances [...]."""
        heads = [head.model[-1].weight.flatten() for head in self.model.lins]  # 1 x 1 to one channel, no bias
        distances = [_fused_distance(*pair, head) for pair, head in zip(pairs, heads, strict=True)]
        return torch.stack(distances).sum(0)


def layer_distance(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """A layer's part of LPIPS: features [..., C, h, w] twice, broadcast against each other, weights [C] -> [...].

    Every position is brought to length one. Float32 throughout, whatever the features are.
    """
    first, second = (_of_length_one(layer.movedim(-3, -1).float()) for layer in (first, second))
    return ((first - second).square() * weight).sum(-1).mean((-2, -1))


_fused_distance = Compiled(layer_distance)


def _of_length_one(rows: Tensor) -> Tensor:
    return rows / (rows.square().sum(-1, keepdim=True).sqrt() + 1e-10)


def _filled_up(x: Tensor, dim: int, multiple: int = 8) -> Tensor:
    """Zeros behind ``dim`` (channels of [B, C, H, W]) up to a multiple that tensor cores take."""
    after = [0, 0] * (x.dim() - 1 - dim)
    return functional.pad(x, (*after, 0, -x.shape[dim] % multiple))


def _layers(trunk: nn.Module, frames: Tensor) -> list[Tensor]:
    """The outputs of a trunk's slices. In all three trunks ReLU follows every convolution; it is computed with it."""
    found = []
    for number in range(1, trunk.N_slices + 1):
        for layer in getattr(trunk, f"slice{number}"):
            if isinstance(layer, nn.Conv2d):
                frames = _conv_relu(frames, layer)
            elif not isinstance(layer, nn.ReLU):
                frames = layer(frames)
        found.append(frames)
    return found


def _conv_relu(x: Tensor, layer: nn.Conv2d) -> Tensor:
    where = (layer.stride, layer.padding, layer.dilation, layer.groups)
    if x.is_cuda:
        try:
            return torch.cudnn_convolution_relu(x, layer.weight, layer.bias, *where)
        except RuntimeError:  # no such kernel for this shape: in two steps
            pass
    return functional.relu_(functional.conv2d(x, layer.weight, layer.bias, *where))


def trunk_weights(net: str) -> dict[str, Tensor] | None:
    """Convolutions of the trunk, keyed as in torchvision's ``features``; None when no place has them."""
    place = trunks_found().get(net)
    if place is None:
        return None
    if place == "RLVR_SHARED_DATA":
        return _from_keras(net, shared_data() / "lpips" / net)
    file = Path(torch.hub.get_dir()) / "checkpoints" / TRUNKS[net]
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}): delete it; set-up fetches it again"
        ) from error
    return {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}


def _from_keras(net: str, folder: Path) -> dict[str, Tensor] | None:
    """Read a converted trunk. Its kernels are stored (width, height, in, out): both axes of space are turned round."""
    if net not in SLICES:
        return None
    weights: dict[str, Tensor] = {}
    for number, layers in enumerate(SLICES[net], start=1):
        file = folder / f"slice_{number}_base.keras"
        try:
            with zipfile.ZipFile(file) as archive:
                tree = h5py.File(BytesIO(archive.read("model.weights.h5")))["layers"]
            for place, layer in enumerate(layers):
                fire = f"__fire_{place}" if place else "__fire"
                parts = {f"{layer}.{part}": f"{fire}/{inner}" for part, inner in FIRE.items()}
                for key, inner in (parts if fire in tree else {str(layer): "sequential"}).items():
                    values = tree[inner]["layers/conv2d/vars"]
                    weights[f"{key}.weight"] = torch.from_numpy(values["0"][()].transpose(3, 2, 1, 0).copy())
                    weights[f"{key}.bias"] = torch.from_numpy(values["1"][()])
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{file} cannot be read ({type(error).__name__}): copy the folder lpips again") from error
    return weights


class MultiScaleDissimilarity(nn.Module):
    """1 - MS-SSIM in [0, 1], over as many of the five scales as fit, with their weights brought to a sum of one."""

    def features(self, frames: Tensor) -> list[Tensor]:
        return [frames]

    def compare(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Frames [..., 3, H, W] twice, broadcast against each other -> [...]."""
        first, second = torch.broadcast_tensors(*pairs[0])
        return self(first.flatten(0, -4), second.flatten(0, -4)).reshape(first.shape[:-3])

    def forward(self, truth: Tensor, prediction: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B]."""
        fitting = [1 for scale in range(len(SCALES)) if min(truth.shape[-2:]) >> scale >= WINDOW]
        weights = torch.tensor(SCALES[: len(fitting)], device=truth.device)
        value = torch.ones(len(truth), device=truth.device)
        for scale, weight in enumerate(weights / weights.sum()):
            luminance, structure = ssim_terms(truth, prediction)
            term = structure if scale + 1 < len(weights) else luminance * structure
            value = value * term.mean((-3, -2, -1)).clamp(min=1e-6) ** weight
            truth, prediction = (functional.avg_pool2d(frames, 2) for frames in (truth, prediction))
        return 1 - value
