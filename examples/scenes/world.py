"""What a scene holds: its objects, camera, light and room, drawn from a seed.

In: a NumPy generator. Out: a `World`, plain data that `raycast.py` turns into pictures. Units are metres and radians.

World frame: x right, y forward, z up; the floor is z = 0, the back wall is y = wall_y, the camera is above the origin.
Camera frame: x right, y up, z towards the viewer. The camera is a pinhole: pixel (row i, column j) of S x S looks along

    forward + u right + v up,   u = ((2 j + 1) / S - 1) tan(fov / 2),   v = (1 - (2 i + 1) / S) tan(fov / 2),

so the ray parameter of a hit *is* its z-depth in metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

KINDS = ("sphere", "cube", "cylinder", "cone")
CLASSES = ("floor", "wall", *KINDS)  # the class ids of semseg.png, in order
COLOURS = {  # sRGB in [0, 1]
    "red": (0.86, 0.12, 0.12),
    "green": (0.12, 0.62, 0.20),
    "blue": (0.13, 0.27, 0.85),
    "yellow": (0.95, 0.80, 0.10),
    "purple": (0.66, 0.16, 0.70),
    "cyan": (0.20, 0.82, 0.86),
}
SIZES = {"small": (0.75, 0.90), "large": (1.20, 1.45)}  # the range of heights, metres
TILE = 0.5  # metres: the side of a floor tile, the same in every scene, so that it tells the scale
FLOORS = (
    (0.78, 0.72, 0.63),
    (0.66, 0.66, 0.67),
    (0.72, 0.62, 0.50),
    (0.56, 0.58, 0.62),
    (0.80, 0.79, 0.77),
    (0.62, 0.54, 0.47),
)
WALLS = (
    (0.86, 0.85, 0.82),
    (0.74, 0.79, 0.84),
    (0.84, 0.78, 0.72),
    (0.72, 0.78, 0.72),
    (0.80, 0.75, 0.80),
    (0.66, 0.67, 0.70),
)
NIGHT_FLOORS = ((0.30, 0.22, 0.18), (0.20, 0.27, 0.22), (0.25, 0.25, 0.37))
NIGHT_WALLS = ((0.15, 0.20, 0.36), (0.31, 0.17, 0.22), (0.13, 0.28, 0.26))
SPLITS = ("train", "val")
STYLES = ("day", "night")


@dataclass(frozen=True)
class Body:
    """One object standing on the floor: `x`, `y`, `radius`, `height` in metres, `turn` about the vertical in radians.

    `radius` is that of the sphere, of the cylinder or of the cone's foot; for a cube it is half an edge."""

    kind: str
    colour: str
    rgb: tuple[float, float, float]
    material: str
    size: str
    x: float
    y: float
    radius: float
    height: float
    turn: float

    @property
    def reach(self) -> float:
        """The radius in metres of the smallest circle about (x, y) that holds the object's footprint."""
        return self.radius * (math.sqrt(2) if self.kind == "cube" else 1.0)


@dataclass(frozen=True)
class Camera:
    """A pinhole at (0, 0, height): `yaw` to the right of +y, `pitch` downwards, `fov` the whole field of view."""

    height: float
    yaw: float
    pitch: float
    fov: float

    @property
    def axes(self) -> tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]:
        """The unit vectors (right, up, forward) in the world frame."""
        sy, cy, sp, cp = math.sin(self.yaw), math.cos(self.yaw), math.sin(self.pitch), math.cos(self.pitch)
        return (cy, -sy, 0.0), (sy * sp, cy * sp, cp), (sy * cp, cy * cp, -sp)

    def project(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Where a world point appears, (-1, 1) from left to right and from bottom to top, and its z-depth in metres."""
        right, up, forward = self.axes
        z -= self.height
        depth = x * forward[0] + y * forward[1] + z * forward[2]
        scale = 1.0 / (max(depth, 1e-6) * math.tan(self.fov / 2))
        return (x * right[0] + y * right[1]) * scale, (x * up[0] + y * up[1] + z * up[2]) * scale, depth


@dataclass(frozen=True)
class World:
    """Everything a picture depends on. `light` is the unit vector towards the sun; floor and wall colours are sRGB."""

    camera: Camera
    bodies: tuple[Body, ...]
    light: tuple[float, float, float]
    ambient: float
    floor: tuple[float, float, float]
    floor_contrast: float
    wall: tuple[float, float, float]
    wall_y: float


def generator(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    """The random numbers of one purpose of one scene; splits, scenes and purposes never share a stream."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, SPLITS.index(split), index, purpose])))


def sample_world(rng: np.random.Generator) -> World:
    """One random scene of one to four objects, nearly all of them well inside the picture and hardly hidden."""
    while True:
        wanted = int(rng.choice(4, p=(0.2, 0.32, 0.28, 0.2))) + 1
        camera, distance = _sample_camera(rng, wanted)
        bodies: list[Body] = []
        frames: list[tuple[float, float, float, float]] = []
        for _ in range(200):
            body = _sample_body(rng, camera, distance, bodies)
            frame = _frame(camera, body)
            if _fits(body, frame, bodies, frames):
                bodies.append(replace(body, rgb=_jitter(rng, body.rgb, 0.04)))
                frames.append(frame)
                if len(bodies) == wanted:
                    break
        if bodies:
            break
    wall_y = max(b.y + b.reach for b in bodies) + float(rng.uniform(0.4, 2.4)) * distance
    azimuth, elevation = float(rng.uniform(-2.4, 0.0)) - 0.35, float(rng.uniform(0.6, 1.05))
    light = (math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation))
    floor, wall = FLOORS[int(rng.integers(len(FLOORS)))], WALLS[int(rng.integers(len(WALLS)))]
    return World(
        camera=camera,
        bodies=tuple(bodies),
        light=light,
        ambient=float(rng.uniform(0.34, 0.48)),
        floor=_jitter(rng, floor, 0.02),
        floor_contrast=float(rng.uniform(0.10, 0.22)),
        wall=_jitter(rng, wall, 0.02),
        wall_y=wall_y,
    )


def by_night(world: World, rng: np.random.Generator) -> World:
    """The same objects and camera before dark walls and floors, in the light of a lamp behind them: a style to test on
    what has been learned by day."""
    x, y, z = world.light
    floor, wall = NIGHT_FLOORS[int(rng.integers(len(NIGHT_FLOORS)))], NIGHT_WALLS[int(rng.integers(len(NIGHT_WALLS)))]
    return replace(
        world,
        light=(x, -y, z),
        ambient=float(rng.uniform(0.26, 0.34)),
        floor=_jitter(rng, floor, 0.02),
        wall=_jitter(rng, wall, 0.02),
    )


def _sample_camera(rng: np.random.Generator, wanted: int) -> tuple[Camera, float]:
    """A camera for `wanted` objects, and the distance in metres along the floor to the middle of what it looks at."""
    distance = float(rng.uniform(1.7, 3.6)) + 0.25 * wanted
    elevation = float(rng.uniform(math.radians(8), math.radians(42)))
    height = 0.45 + distance * math.tan(elevation)
    pitch = math.atan2(height - 0.45, distance) + math.radians(float(rng.uniform(-3, 3)))
    fov = math.radians(float(rng.uniform(44, 58)))
    yaw = math.radians(float(rng.uniform(-22, 22)))
    return Camera(height=height, yaw=yaw, pitch=pitch, fov=fov), distance


def _sample_body(rng: np.random.Generator, camera: Camera, distance: float, others: list[Body]) -> Body:
    if others and rng.uniform() < 0.15:  # "two red cubes" must be worth saying
        twin = others[int(rng.integers(len(others)))]
        kind, colour = twin.kind, twin.colour
    else:
        kind, colour = KINDS[int(rng.integers(len(KINDS)))], tuple(COLOURS)[int(rng.integers(len(COLOURS)))]
    size = tuple(SIZES)[int(rng.integers(len(SIZES)))]
    height = float(rng.uniform(*SIZES[size]))
    texture = float(rng.uniform())
    slim = float(rng.uniform(0.38, 0.46)) if kind in ("cylinder", "cone") else 0.5
    along = distance + float(rng.uniform(-0.5, 0.7)) * distance**0.6
    half_width = math.tan(camera.fov / 2) * math.hypot(along, camera.height)
    across = float(rng.uniform(-0.85, 0.85)) * half_width
    sy, cy = math.sin(camera.yaw), math.cos(camera.yaw)
    return Body(
        kind=kind,
        colour=colour,
        rgb=COLOURS[colour],
        material="matte" if texture < 0.45 else "shiny" if texture < 0.8 else "striped",
        size=size,
        x=along * sy + across * cy,
        y=along * cy - across * sy,
        radius=height * slim,
        height=height,
        turn=float(rng.uniform(0, math.pi / 2)),
    )


def _frame(camera: Camera, body: Body) -> tuple[float, float, float, float]:
    """About where an object lies in the picture: (left, bottom, right, top), each in (-1, 1) where it is inside."""
    u, _, depth = camera.project(body.x, body.y, body.height / 2)
    near = max(math.hypot(body.x, body.y) - body.reach, 1e-3) / math.hypot(body.x, body.y)
    bottom = camera.project(body.x * near, body.y * near, 0.0)[1]
    top = camera.project(body.x, body.y, body.height)[1]
    half = body.reach / (depth * math.tan(camera.fov / 2))
    return u - half, bottom, u + half, top


def _fits(
    body: Body, frame: tuple[float, ...], bodies: list[Body], frames: list[tuple[float, float, float, float]]
) -> bool:
    """Inside the picture, apart from the other objects in space, and apart enough from them in the picture."""
    left, bottom, right, top = frame
    if left < -0.98 or right > 0.98 or bottom < -0.98 or top > 0.98 or top - bottom < 0.5:
        return False
    for other, (l, b, r, t) in zip(bodies, frames, strict=True):
        if math.hypot(body.x - other.x, body.y - other.y) < body.reach + other.reach + 0.08:
            return False
        shared = max(0.0, min(right, r) - max(left, l)) * max(0.0, min(top, t) - max(bottom, b))
        if shared > 0.25 * min((right - left) * (top - bottom), (r - l) * (t - b)):
            return False
    return True


def _jitter(rng: np.random.Generator, rgb: tuple[float, ...], amount: float) -> tuple[float, float, float]:
    r, g, b = (min(max(c + float(rng.uniform(-amount, amount)), 0.0), 1.0) for c in rgb)
    return r, g, b
