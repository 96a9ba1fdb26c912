"""Ray casting of a `World` in vectorised NumPy: colour, depth, normals, class ids, and which object each pixel shows.

In: a `World` and the side of the picture in pixels. Out: a `Picture` of arrays. Rays are kept as one array a component,
so each step is a handful of additions and products over all the pixels, and the result is the same on every machine.

Geometry (depth, normals, ids) is sampled at the pixels' centres. Only colour is anti-aliased: the pixels at the edge of
an object, a shadow, a stripe or a tile are cast again with four rays each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from world import CLASSES, TILE, Body, Camera, World

Vector = tuple[np.ndarray, np.ndarray, np.ndarray]

SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))  # (column, row): a rotated grid
FLOOR, WALL = -2, -1  # what a ray hits, where it is not the index of an object


@dataclass(frozen=True)
class Picture:
    """Arrays of (S, S): `rgb` uint8 (S, S, 3); `depth` float32 metres, z-depth, all finite; `normal` float32 (S, S, 3)
    unit vectors in the camera frame; `semseg` uint8 class ids; `instance` int8, the index of the object or -1.
    `whole` int64 (objects,): the pixels each object would cover if no other hid it."""

    rgb: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    semseg: np.ndarray
    instance: np.ndarray
    whole: np.ndarray


def cast(world: World, size: int) -> Picture:
    """The picture of `world`, `size` x `size` pixels."""
    rows, columns = np.divmod(np.arange(size * size), size)
    ray = _rays(world.camera, rows, columns, size)
    depth, normal, hit, whole = _trace(world, ray)
    colour, look = _shade(world, ray, depth, normal, hit)
    edges = np.flatnonzero(_edges(look.reshape(size, size)))
    if edges.size:
        samples = [_rays(world.camera, rows[edges] + dr, columns[edges] + dc, size) for dc, dr in SUBPIXELS]
        fine_x, fine_y, fine_z = (np.concatenate([s[k] for s in samples]) for k in range(3))
        fine = (fine_x, fine_y, fine_z)
        colour_fine, _ = _shade(world, fine, *_trace(world, fine)[:3])
        colour[:, edges] = colour_fine.reshape(3, len(SUBPIXELS), -1).mean(axis=1)
    # Gamma 2: the square root is exactly rounded everywhere, a power of 2.2 is not.
    rgb = np.rint(np.sqrt(np.clip(colour, 0, 1)) * 255).astype(np.uint8)
    nx, ny, nz = normal
    right, up, (fx, fy, fz) = world.camera.axes
    camera_normal = [nx * ax + ny * ay + nz * az for ax, ay, az in (right, up, (-fx, -fy, -fz))]
    lookup = np.array([*(CLASSES.index(b.kind) for b in world.bodies), CLASSES.index("floor"), CLASSES.index("wall")])
    return Picture(
        rgb=rgb.T.reshape(size, size, 3),
        depth=depth.astype(np.float32).reshape(size, size),
        normal=np.stack(camera_normal, axis=-1).astype(np.float32).reshape(size, size, 3),
        semseg=lookup[hit].astype(np.uint8).reshape(size, size),
        instance=np.maximum(hit, -1).astype(np.int8).reshape(size, size),
        whole=np.array(whole, dtype=np.int64),
    )


def _rays(camera: Camera, rows: np.ndarray, columns: np.ndarray, size: int) -> Vector:
    """Directions with a forward component of 1, so that the parameter along the ray is the z-depth (see world.py)."""
    right, up, forward = camera.axes
    u = ((2 * columns + 1) / size - 1) * math.tan(camera.fov / 2)
    v = (1 - (2 * rows + 1) / size) * math.tan(camera.fov / 2)
    x, y, z = (forward[k] + u * right[k] + v * up[k] for k in range(3))
    return x, y, z


def _trace(world: World, ray: Vector) -> tuple[np.ndarray, Vector, np.ndarray, list[int]]:
    """Nearest hit of rays from the camera: z-depth, unit world normal, what was hit, how many rays meet each object."""
    dx, dy, dz = ray
    height = world.camera.height
    floor = np.where(dz < 0, height / -np.minimum(dz, -1e-9), np.inf)
    wall = world.wall_y / np.maximum(dy, 1e-9)
    depth = np.minimum(floor, wall)
    on_floor = floor <= wall
    hit = np.where(on_floor, FLOOR, WALL)
    nx, ny, nz = np.zeros_like(dx), np.where(on_floor, 0.0, -1.0), np.where(on_floor, 1.0, 0.0)
    zero = np.zeros(1)
    whole = []
    for k, body in enumerate(world.bodies):
        origin = (zero - body.x, zero - body.y, zero + height)
        near = _near(body, origin, ray)
        t, (bx, by, bz) = _intersect(body, origin, (dx[near], dy[near], dz[near]))
        whole.append(int(np.isfinite(t).sum()))
        wins = t < depth[near]
        at = near[wins]
        depth[at], hit[at] = t[wins], k
        nx[at], ny[at], nz[at] = bx[wins], by[wins], bz[wins]
    return depth, (nx, ny, nz), hit, whole


def _near(body: Body, origin: Vector, ray: Vector) -> np.ndarray:
    """Indices of the rays that pass through the object's bounding sphere; `origin` is relative to its foot."""
    half = body.height / 2
    bound = half * half + body.reach**2 if body.kind != "sphere" else half * half
    ox, oy, oz = origin[0], origin[1], origin[2] - half
    dx, dy, dz = ray
    along = ox * dx + oy * dy + oz * dz
    square = dx * dx + dy * dy + dz * dz
    return np.flatnonzero(along * along >= square * (ox * ox + oy * oy + oz * oz - bound * 1.0001))


def _intersect(body: Body, origin: Vector, ray: Vector) -> tuple[np.ndarray, Vector]:
    """Where rays enter an object: parameter (inf where they miss it) and outward unit normal.

    `origin` is relative to the object's foot, which lies on the floor at the centre; origins are outside the object."""
    if body.kind == "cube":
        return _cube(body, origin, ray)
    ox, oy, oz = origin
    dx, dy, dz = ray
    r, h = body.radius, body.height
    with np.errstate(divide="ignore", invalid="ignore"):
        if body.kind == "sphere":  # |o + t d - (0, 0, r)|^2 = r^2
            oz = oz - r
            t = _first_root(
                dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz, ox * ox + oy * oy + oz * oz - r * r
            )
            return t, ((ox + t * dx) / r, (oy + t * dy) / r, (oz + t * dz) / r)
        if body.kind == "cylinder":  # x^2 + y^2 = r^2 for 0 <= z <= h, and the lid
            t = _first_root(dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy - r * r)
            t = _keep(t, oz + t * dz, h)
            lid = (h - oz) / dz
            x, y = ox + lid * dx, oy + lid * dy
            on_lid = (lid > 0) & (x * x + y * y <= r * r) & ~(t < lid)
            t = np.where(on_lid, lid, t)
            side = np.where(on_lid, 0.0, 1.0 / r)
            return t, ((ox + t * dx) * side, (oy + t * dy) * side, np.where(on_lid, 1.0, 0.0))
        # The cone x^2 + y^2 = (k (h - z))^2 with k = r / h, for 0 <= z <= h.
        k = r / h
        w, q = h - oz, k * k
        a, b, c = dx * dx + dy * dy - q * dz * dz, ox * dx + oy * dy + q * w * dz, ox * ox + oy * oy - q * w * w
        root = np.sqrt(b * b - a * c)
        first, second = (-b - root) / a, (-b + root) / a
        first, second = _keep(first, oz + first * dz, h), _keep(second, oz + second * dz, h)
        t = np.minimum(first, second)
        z = oz + t * dz
        scale = 1.0 / (
            k * (h - z) * math.sqrt(1 + q)
        )  # the gradient (x, y, q (h - z)) has length k (h - z) sqrt(1 + q)
        return t, ((ox + t * dx) * scale, (oy + t * dy) * scale, np.full_like(t, k / math.sqrt(1 + q)))


def _cube(body: Body, origin: Vector, ray: Vector) -> tuple[np.ndarray, Vector]:
    """Slabs |x|, |y| <= r and 0 <= z <= h in the cube's own frame, which is turned about the vertical."""
    c, s, r = math.cos(body.turn), math.sin(body.turn), body.radius
    ox, oy = c * origin[0] + s * origin[1], c * origin[1] - s * origin[0]
    dx, dy = c * ray[0] + s * ray[1], c * ray[1] - s * ray[0]
    oz, dz = origin[2] - r, ray[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        enter = [(-np.copysign(r, d) - o) / d for o, d in ((ox, dx), (oy, dy), (oz, dz))]
        leave = [(np.copysign(r, d) - o) / d for o, d in ((ox, dx), (oy, dy), (oz, dz))]
    first = np.maximum(np.maximum(enter[0], enter[1]), enter[2])
    last = np.minimum(np.minimum(leave[0], leave[1]), leave[2])
    t = np.where((first <= last) & (first > 0), first, np.inf)
    on_x = enter[0] >= first
    on_y = ~on_x & (enter[1] >= first)
    lx, ly = np.where(on_x, -np.sign(dx), 0.0), np.where(on_y, -np.sign(dy), 0.0)
    return t, (c * lx - s * ly, s * lx + c * ly, np.where(on_x | on_y, 0.0, -np.sign(dz)))


def _first_root(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The smaller root of a t^2 + 2 b t + c = 0 (a >= 0) where it is positive, else inf."""
    t = (-b - np.sqrt(b * b - a * c)) / a
    return np.where(t > 0, t, np.inf)  # nan, where the ray misses, compares false


def _keep(t: np.ndarray, z: np.ndarray, height: float) -> np.ndarray:
    return np.where((t > 0) & (z >= 0) & (z <= height), t, np.inf)


def _shade(
    world: World, ray: Vector, depth: np.ndarray, normal: Vector, hit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Linear colour (3, rays), and a label that changes wherever the look of the surface jumps."""
    dx, dy, dz = ray
    px, py, pz = depth * dx, depth * dy, depth * dz + world.camera.height
    nx, ny, nz = normal
    lx, ly, lz = (np.full(1, c) for c in world.light)
    facing = np.maximum(nx * lx + ny * ly + nz * lz, 0.0)
    lit = np.ones_like(depth)
    open_sky = np.ones_like(depth)  # a soft contact shadow under and beside the objects
    background = hit < 0
    for k, body in enumerate(world.bodies):
        ox, oy = px - body.x, py - body.y
        sun = _near(body, (ox, oy, pz), (lx, ly, lz))
        sun = sun[(hit[sun] != k) & (facing[sun] > 0)]
        if sun.size:
            t, _ = _intersect(body, (ox[sun], oy[sun], pz[sun]), (lx, ly, lz))
            lit[sun[np.isfinite(t)]] = 0.0
        gap = ox * ox + oy * oy + pz * pz
        open_sky *= np.where(background, 1 - 0.45 / (1 + gap / (0.6 * body.radius**2)), 1.0)

    tile = (np.floor(px / TILE) + np.floor((py - world.wall_y) / TILE)) % 2
    tone = np.where(hit == FLOOR, 1 - world.floor_contrast * tile, 1.06 - 0.05 * pz)
    mark = np.where(hit == FLOOR, tile, 0.0)
    albedo = np.where(hit == FLOOR, _linear(world.floor), _linear(world.wall)) * (tone * tone)
    gloss = np.zeros_like(depth)
    for k, body in enumerate(world.bodies):
        at = np.flatnonzero(hit == k)
        paint = np.broadcast_to(_linear(body.rgb), (3, at.size))
        if body.material == "striped":
            stripe = np.floor(pz[at] / body.height * 7) % 2
            paint = paint * (1 - 0.62 * stripe)
            mark[at] = stripe
        elif body.material == "shiny":
            gloss[at] = 1.0
        albedo[:, at] = paint
    colour = albedo * ((world.ambient * (0.75 + 0.25 * nz)) * open_sky + (1.05 - world.ambient) * facing * lit)

    shiny = np.flatnonzero(gloss)
    if shiny.size:
        colour[:, shiny] += _highlight(
            world, (dx[shiny], dy[shiny], dz[shiny]), (nx[shiny], ny[shiny], nz[shiny]), lit[shiny]
        )
    return colour, (hit + 2) * 4 + mark * 2 + lit * (facing > 0)


def _highlight(world: World, ray: Vector, normal: Vector, lit: np.ndarray) -> np.ndarray:
    """The sun mirrored in a polished surface, and a pale sky reflected at grazing angles; (rays,), grey."""
    dx, dy, dz = ray
    nx, ny, nz = normal
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    cosine = -(dx * nx + dy * ny + dz * nz) / length
    rx, ry, rz = dx / length + 2 * cosine * nx, dy / length + 2 * cosine * ny, dz / length + 2 * cosine * nz
    sun = np.maximum(rx * world.light[0] + ry * world.light[1] + rz * world.light[2], 0.0)
    for _ in range(5):  # to the power of 32
        sun = sun * sun
    graze = 1 - np.clip(cosine, 0.0, 1.0)
    return 0.8 * sun * lit + 0.35 * graze * graze * graze * np.maximum(rz, 0.0) + 0.03


def _linear(srgb: tuple[float, float, float]) -> np.ndarray:
    return np.square(np.array(srgb))[:, None]  # (3, 1)


def _edges(look: np.ndarray) -> np.ndarray:
    """True at pixels whose look differs from that of a neighbour above, below, left or right; (S, S) bool."""
    edge = np.zeros(look.shape, dtype=bool)
    down, across = look[1:] != look[:-1], look[:, 1:] != look[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge
