"""``rlvr doctor``: what this machine has, and what each profile would miss on it. Looks, never changes anything."""

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from tabulate import tabulate

from rlvr_lib.artifacts import ROOT
from rlvr_lib.profile import Profile, load_profile, profile_names
from rlvr_lib.profile_schema_domains import DOMAINS
from rlvr_lib.provenance import hardware, usable_cores
from rlvr_lib.worlds.browser_find import find_browser, why_no_browser
from rlvr_lib.worlds.renderers import choose_renderer
from rlvr_lib.worlds.webarena import why_no_webarena

TRUNKS = {"squeeze": "squeezenet1_1-b8a52dc0.pth", "alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
HUB = "huggingface.co"


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, whether it is there, and what it means or what to do."""

    what: str
    there: bool | None
    text: str


def doctor_text(network: bool = False) -> str:
    """Two plain tables: the machine, then what each profile would miss."""
    marks = {True: "yes", False: "no", None: "?"}
    machine = [[finding.what, marks[finding.there], finding.text] for finding in findings(network)]
    misses = [[name, "; ".join(missing(load_profile(name))) or "nothing"] for name in profile_names()]
    return "\n\n".join(
        [
            tabulate(machine, ["this machine", "there", ""], maxcolwidths=[None, None, 90]),
            tabulate(misses, ["profile", "would miss here"], maxcolwidths=[None, 100]),
        ]
    )


def findings(network: bool = False) -> list[Finding]:
    """Everything that was looked at, in order."""
    return [*_hardware(), _renderer(), _browser(), _perceptual_metric(), _shared_data(), _hub(network)]


def _hardware() -> list[Finding]:
    facts = hardware()
    free = shutil.disk_usage(ROOT).free / 2**30
    memory = psutil.virtual_memory()
    return [
        Finding("GPU", bool(facts["gpus"]), ", ".join(facts["gpus"]) or "none; smoke and laptop do without"),
        Finding("cores", True, f"{usable_cores()} usable ({facts['cpu']}); torch uses {torch.get_num_threads()}"),
        Finding("memory", True, f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"),
        Finding("disk", free > 2, f"{free:.0f} GiB free at {ROOT}"),
    ]


def gpu_memory() -> float:
    """GiB of the largest GPU; 0 without one."""
    count = torch.cuda.device_count()
    return max((torch.cuda.get_device_properties(index).total_memory / 2**30 for index in range(count)), default=0.0)


def _renderer() -> Finding:
    if choose_renderer() == "egl":
        return Finding("EGL", True, "draws the robot videos")
    advice = "robot videos come from a ray caster (flat colours, no shadows); apt install libegl1 libgl1-mesa-dri"
    return Finding("EGL", False, advice)


def _browser() -> Finding:
    if missing_browser := why_no_browser():
        return Finding("browser", False, f"{missing_browser} (only live web pages need one)")
    return Finding("browser", True, f"{find_browser().program}")


def _perceptual_metric() -> Finding:
    trunks = trunks_found()
    if trunks:
        return Finding("LPIPS trunks", True, ", ".join(f"{name} ({place})" for name, place in trunks.items()))
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    advice = (
        f"none: video metrics fall back to 1 - MS-SSIM; put {TRUNKS['squeeze']} (5 MB) from pytorch.org in {folder}"
    )
    return Finding("LPIPS trunks", False, advice)


def trunks_found() -> dict[str, str]:
    """ImageNet trunks for LPIPS by net: the torch hub cache, then the folder lpips in RLVR_SHARED_DATA."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    found = {net: "torch hub cache" for net, file in TRUNKS.items() if (cache / file).is_file()}
    shared = shared_data()
    for net in TRUNKS:
        if net not in found and shared is not None and (shared / "lpips" / net).is_dir():
            found[net] = "RLVR_SHARED_DATA"
    return found


def shared_data() -> Path | None:
    """The folder RLVR_SHARED_DATA names, when it exists."""
    place = os.environ.get("RLVR_SHARED_DATA")
    return Path(place) if place and Path(place).is_dir() else None


def _shared_data() -> Finding:
    folder = shared_data()
    if folder is None:
        return Finding("shared data", False, "set RLVR_SHARED_DATA to a folder with bytesized32/, lpips/ (optional)")
    return Finding("shared data", True, f"{folder}: " + ", ".join(sorted(path.name for path in folder.iterdir())))


def _hub(network: bool) -> Finding:
    if not network:
        return Finding("model hub", None, "not tried (rlvr doctor --network tries)")
    try:
        socket.create_connection((HUB, 443), timeout=5).close()
    except OSError as error:
        return Finding("model hub", False, f"{HUB}: {error}")
    return Finding("model hub", True, HUB)


def missing(profile: Profile) -> list[str]:
    """What the profile asks for and this machine has not, one phrase each."""
    lacks = []
    game = profile.text_game
    if profile.threads > usable_cores():
        lacks.append(f"{profile.threads} threads wanted, {usable_cores()} cores (slower; set threads)")
    for name in sorted({part.model.name for part in (game, profile.web_page) if part.model.kind == "hub"}):
        if gpu_memory() < 22:
            lacks.append(f"a GPU of 24 GB or more for {name}")
        if not hub_model_cached(name):
            lacks.append("its weights in the hub's cache (fetched when the hub is reachable)")
    if game.data.source == "bytesized32" and public_games(profile) is None:
        lacks.append("the ByteSized32 files (set text_game.data.root or RLVR_SHARED_DATA)")
    if profile.web_page.data.source == "webarena" and public_pages(profile) is None:
        lacks.append("the WebArena transitions (set web_page.data.root or RLVR_SHARED_DATA)")
    agent = profile.web_page.agent
    if agent.world == "local" and why_no_browser():
        lacks.append("a browser for notebook 23 (rlvr get-browser)")
    if agent.world == "webarena" and (why := why_no_webarena()):
        lacks.append(f"for notebook 23: {why}")
    if agent.policy == "endpoint":
        lacks.append(f"a key for {agent.endpoint.base_url} in RLVR_AGENT_API_KEY (not checked)")
    if game.teacher.kind == "endpoint":
        lacks.append(f"a key for {game.teacher.base_url} (not checked)")
    video = profile.video
    if video.data.source == "rt1" and not Path(video.data.root or "unset").expanduser().is_dir():
        lacks.append("RT-1 episodes (rlvr convert-rt1, then set video.data.root)")
    if profile.domains.source == "dino_wm":
        roots = {name: getattr(profile.domains, name).root for name in DOMAINS}
        lacking = [name for name, root in roots.items() if not Path(root or "unset").expanduser().is_dir()]
        if lacking:
            lacks.append(f"DINO-WM's {', '.join(lacking)} (rlvr convert-dino-wm, then set domains.{lacking[0]}.root)")
    feature = profile.domains.baselines.feature
    if feature.encoder == "dinov2" and not Path(feature.dinov2).is_dir() and not hub_model_cached(feature.dinov2):
        lacks.append(f"{feature.dinov2} in the hub's cache (or domains.baselines.feature.encoder=tokenizer)")
    if video.metric not in trunks_found():
        lacks.append(f"the {video.metric} trunk of LPIPS ({TRUNKS[video.metric]})")
    return lacks


def hub_model_cached(name: str) -> bool:
    """Whether the hub's local cache holds the model's config."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def public_games(profile: Profile) -> Path | None:
    """Folder of the public text-game files, when it is there."""
    return _public(profile.text_game.data.root, "bytesized32")


def public_pages(profile: Profile) -> Path | None:
    """Folder of the public web-page transitions, when it is there."""
    return _public(profile.web_page.data.root, "webarena")


def _public(root: str, name: str) -> Path | None:
    shared = shared_data()
    place = Path(root).expanduser() if root else shared and shared / name
    return place if place is not None and place.is_dir() else None
