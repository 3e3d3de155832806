"""Pictures of a MuJoCo scene without a display: EGL when it opens, else a ray caster that needs no OpenGL at all.

The two draw differently (textures, edges, light), so a set of episodes is drawn by one of them; its manifest says
which. What works is found out in a process of its own, because a failing OpenGL can take its process down.
"""

import os
import subprocess
import sys
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlvr_lib.artifacts import UserError

RENDERERS = ("egl", "rays")
SHADOW_MAP = 512  # MuJoCo's own 4096 costs ten times the whole frame
_PROBE = (
    "import mujoco; m = mujoco.MjModel.from_xml_string('<mujoco/>'); d = mujoco.MjData(m); mujoco.mj_forward(m, d);"
    "r = mujoco.Renderer(m, 8, 8); r.update_scene(d); r.render(); r.close()"
)
LIGHT = np.array([0.3, -0.5, 0.8]) / np.linalg.norm([0.3, -0.5, 0.8])
SKY = (128, 128, 124)


class Renderer(Protocol):
    """Draws the current state: uint8 [H, W, 3]."""

    def frame(self, data: Any) -> NDArray[np.uint8]: ...

    def close(self) -> None: ...


def choose_renderer(wish: str = "auto") -> str:
    """``egl`` or ``rays``; ``auto`` tries EGL first. UserError when EGL is wished for and does not open."""
    if wish not in ("auto", *RENDERERS):
        raise UserError(f"renderer: {wish!r} is none of auto, {', '.join(RENDERERS)}")
    if wish == "rays" or (wish == "auto" and os.environ.get("MUJOCO_GL") == "disable"):
        return "rays"
    if _egl_opens():
        return "egl"
    if wish == "egl":
        raise UserError(
            "renderer: EGL does not open here (Debian: apt install libegl1 libgl1-mesa-dri); use rays or auto"
        )
    return "rays"


def _egl_opens() -> bool:
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    try:
        probe = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, timeout=120)
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def prepare(renderer: str) -> None:
    """Set what MuJoCo reads when it is first imported; call it before that, in every process that draws."""
    os.environ["MUJOCO_GL"] = "egl" if renderer == "egl" else "disable"


def make_renderer(name: str, model: Any, camera: Any, height: int, width: int) -> Renderer:
    """The renderer of a name for a model and a free camera (an ``mjvCamera``)."""
    return EglRenderer(model, camera, height, width) if name == "egl" else RayCaster(model, camera, height, width)


class EglRenderer:
    """MuJoCo's own renderer with a small shadow map; sites (the goal's marker) are hidden."""

    def __init__(self, model: Any, camera: Any, height: int, width: int):
        import mujoco

        model.vis.quality.shadowsize = SHADOW_MAP
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height  # 640 x 480 cost a twelfth of a frame
        self.renderer, self.camera, self.options = mujoco.Renderer(model, height, width), camera, mujoco.MjvOption()
        self.options.sitegroup[:] = 0
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False  # nothing in view reflects

    def frame(self, data: Any) -> NDArray[np.uint8]:
        self.renderer.update_scene(data, self.camera, self.options)
        return self.renderer.render().copy()

    def close(self) -> None:
        self.renderer.close()


class RayCaster:
    """Four rays a pixel against the visible geoms, flat colours, light by the angle between surface and lamp.

    Surface directions come from the differences of neighbouring hits, so that no mesh has to be read.
    """

    GROUPS = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)

    def __init__(self, model: Any, camera: Any, height: int, width: int, fovy: float = 45.0):
        self.model, self.height, self.width = model, height, width
        self.eye, self.rays = _rays(camera, 2 * height, 2 * width, fovy)
        self.colours = np.concatenate([_colours(model), [np.array(SKY) / 255]])

    def frame(self, data: Any) -> NDArray[np.uint8]:
        import mujoco

        count = len(self.rays)
        geoms, distance = np.full((count, 1), -1, dtype=np.int32), np.full((count, 1), -1.0)
        rays = self.rays.reshape(-1, 1)
        mujoco.mj_multiRay(self.model, data, self.eye[:, None], rays, self.GROUPS, 1, -1, geoms, distance, count, 1e10)
        grid = (2 * self.height, 2 * self.width)
        points = (self.eye + self.rays * distance).reshape(*grid, 3)
        across, down = np.gradient(points, axis=1), np.gradient(points, axis=0)
        normal = np.cross(down, across)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
        light = 0.45 + 0.55 * np.abs(normal @ LIGHT)
        missed = (geoms < 0).reshape(grid)
        light[missed] = 1.0
        picture = self.colours[geoms.ravel()].reshape(*grid, 3) * light[..., None]
        small = picture.reshape(self.height, 2, self.width, 2, 3).mean((1, 3))
        return (small.clip(0, 1) * 255).round().astype(np.uint8)

    def close(self) -> None:
        pass


def _rays(camera: Any, height: int, width: int, fovy: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eye [3] and unit directions [height * width, 3] of a free camera, row by row from the top left."""
    azimuth, elevation = np.radians([camera.azimuth, camera.elevation])
    forward = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    up = np.cross(right, forward)
    reach = np.tan(np.radians(fovy) / 2)
    vertical = (1 - 2 * (np.arange(height) + 0.5) / height) * reach
    sideways = (2 * (np.arange(width) + 0.5) / width - 1) * reach * width / height
    rays = forward + vertical[:, None, None] * up + sideways[None, :, None] * right
    rays = rays.reshape(-1, 3) / np.linalg.norm(rays, axis=-1).reshape(-1, 1)
    return np.asarray(camera.lookat) - camera.distance * forward, rays


def _colours(model: Any) -> NDArray[np.float64]:
    """One colour per geom, of its material if it has one; see-through ones are taken as they are."""
    colours = np.array(model.geom_rgba[:, :3], dtype=float)
    has = model.geom_matid >= 0
    colours[has] = model.mat_rgba[model.geom_matid[has], :3]
    return colours
