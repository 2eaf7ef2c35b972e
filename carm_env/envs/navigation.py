"""``CArmNav-v0``: look at an X-ray, move the C-arm, find the landmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from carm_env.actions import DEFAULT_EXTENTS_MM, N_ACTIONS, Move, MoveLattice
from carm_env.envs._json_spec import HasJsonSpec
from carm_env.envs.episode import (
    EpisodeSpec,
    draw_start,
    draw_target,
    landmark_lps_mm,
    parse_start,
    start_isocenter_lps_mm,
)
from carm_env.envs.registration import DEFAULT_TOLERANCE_MM
from carm_env.envs.rewards import RewardSettings, RewardType
from carm_env.envs.scene import Scene, load_scene
from carm_env.envs.state import EpisodeState
from carm_env.envs.transition import Transition
from carm_env.geometry import (
    DEFAULT_ISOCENTER_DEPTH_MM,
    CArmGeometry,
    CArmPose,
    Projection,
    check_image_size,
    check_isocenter_depth,
)
from carm_env.landmarks import LANDMARKS, N_LANDMARKS, landmark
from carm_env.patients.reference import PatientName, PatientRef
from carm_env.randomization.chain import ChainCamera, ImageChain
from carm_env.randomization.draw import DomainRandomization, draw_domain
from carm_env.system.errors import UnknownNameError, check_keys, finite_number
from carm_env.xray.settings import XRaySettings

ObsType = Literal["dict", "image"]
OBS_TYPES: tuple[ObsType, ...] = ("dict", "image")
TargetEncoding = Literal["index", "one_hot"]
TARGET_ENCODINGS: tuple[TargetEncoding, ...] = ("index", "one_hot")
RESET_OPTIONS = ("patient", "target", "start")
MAX_ANGLE_DEG = 45.0

Observation = dict[str, Any] | NDArray[np.uint8]


class CArmNavEnv(HasJsonSpec, gym.Env[Any, np.int64]):
    r"""Drive a C-arm over a patient until the target landmark is in the centre of the X-ray.

    ## Description

    The agent sees an X-ray of a patient and the number of the landmark to find. It shifts the C-arm along and
    across the patient, one exposure per move, and declares the view aligned once the landmark is in the centre.
    The task is defined in "Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control", section 2.3.

    Research software, not a medical device.

    ## Action Space

    ``Discrete(49)``: action ``7 * x + y``, with one of 7 tokens per axis (`carm_env.actions.Move`).

    | token | x axis | y axis |
    |---|---|---|
    | 0, 1, 2 | RIGHT LARGE, MODERATE, SMALL | DOWN LARGE, MODERATE, SMALL |
    | 3 | CENTER NONE | CENTER NONE |
    | 4, 5, 6 | LEFT SMALL, MODERATE, LARGE | UP SMALL, MODERATE, LARGE |

    Directions are the patient's: LEFT moves the isocentre to the patient's left, UP moves it cranially. The lengths
    of SMALL, MODERATE and LARGE are 30, 60 and 90 mm (`extents_mm`). Action 24, ``CENTER/CENTER``, declares the
    view aligned.

    ## Observation Space

    ``Dict(image=Box(0, 255, (H, W, 1), uint8), target=Discrete(14))``. ``target`` is the id of the landmark minus 1.
    Bone is bright, the patient's right is on the left of the image and cranial is up. Every observation is a fresh
    array.

    - ``target_encoding="one_hot"`` replaces ``target`` by ``Box(0, 1, (14,), float32)``, for libraries that do not
      accept ``Discrete`` in a ``Dict``, such as the frame stack of stable-baselines3 and RLlib.
    - ``obs_type="image"`` gives the image alone.

    ## State and Transition

    The state is the patient, the target landmark at point ``l``, the isocentre ``p = (x, y, z)`` and the number of
    exposures. All points are in the patient frame (LPS, mm). The environment is partially observable: the agent does
    not see ``p``. A move ``a`` with the displacement ``m(a) = (m_x, m_z)`` is deterministic:

        (x', z') = clip((x, z) + m(a), workspace)

    ``y`` is constant. The workspace is the box around the patient's landmarks with a margin of 60 mm
    (`carm_env.patient.Patient.workspace_mm`), for the point where the central ray meets the plane at mid-depth of the
    body. After a move the environment takes an X-ray at ``p'`` with new noise. A declaration leaves the C-arm where it
    is, takes no X-ray and shows the last image again.

    The isocentre is nearer to the source than mid-depth of the body, by `isocenter_depth_mm` along the central ray. At
    140 mm, the default and as in the paper, the image shows 196 mm of the body; at 0 mm it shows 155 mm. Moves and
    distances do not depend on the depth: they are across the beam, and a landmark at any depth is in the centre of the
    image if and only if ``d`` is 0.

    The distance to the target is measured in the plane across the central ray with the unit vector ``r``:

        d = | (l - p) - ((l - p) . r) r |

    ## Rewards

    | ``reward_type`` | move | declaration with ``d <= tolerance_mm`` | declaration with ``d > tolerance_mm`` |
    |---|---|---|---|
    | ``"progress"`` (default) | ``(d - d') / 100 - 0.02`` | ``1`` | ``-1`` |
    | ``"distance"`` | ``-d' / 100`` | ``-d' / 100`` | ``-d' / 100`` |
    | ``"sparse"`` | ``0`` | ``1`` | ``0`` |

    ``d`` and ``d'`` are the distances in mm before and after the step. `reward_options` sets the exposure cost
    (0.02), the alignment bonus (1) and the misalignment penalty (1) of ``"progress"``
    (`carm_env.envs.rewards.RewardSettings`).

    ## Starting State

    ``reset`` draws the patient uniformly from `patients`, the target uniformly from the landmarks in `targets`
    that the patient has, and the isocentre uniformly from the workspace, where the central ray of a frontal view
    meets the body and ``d > tolerance_mm``.

    ``reset(options={"patient": .., "target": .., "start": ..})`` sets any of them: the name of a patient
    (`carm_env.patients.reference`), the id or name of a landmark, and a landmark, ``(x, z)`` of the central ray at
    mid-depth of the body or the isocentre ``(x, y, z)``, in LPS mm. The first reset with a patient loads it, and builds
    it if it is a virtual patient that is not yet in the cache.

    With `domain_randomization`, ``reset`` then draws the X-ray system of the episode: how the image is exposed, shown,
    shuttered, slightly rotated and cropped (`carm_env.randomization`). Patient, target, start, moves and distances stay
    the same; patients with a scan in their name vary the CT as well.

    ## Episode End

    - Termination: the agent declares the view aligned.
    - Truncation: after 20 steps (time limit of ``gymnasium.make``; change it with ``max_episode_steps``).

    ## Information

    | key | value |
    |---|---|
    | ``distance_mm`` | ``d``, the distance to the target |
    | ``displacement_mm`` | ``(2,)`` the same as a vector in the image plane: right, up |
    | ``isocenter_lps_mm`` | ``(3,)`` the isocentre |
    | ``closest_landmarks`` | ``(3,)`` ids of the landmarks nearest to the isocentre, in order; 0 if there are fewer |
    | ``target_landmark`` | id of the target, 1-14 |
    | ``is_success`` | the view was declared aligned within the tolerance |
    | ``exposures`` | number of X-rays of this episode |
    | ``dose_mgy`` | air kerma of these X-rays, mGy, 15 cm from the isocentre towards the source |
    | ``dap_mgy_cm2`` | air kerma-area product of these X-rays, mGy cm^2 |
    | ``view_quality`` | of the last X-ray: ``"ok"``, ``"misses_patient"``, ``"saturated"`` or ``"empty"`` |
    | ``action_mask`` | ``(49,)`` int8: 1 if every axis that the action commands would move |
    | ``moved_mm`` | ``(2,)`` displacement by the last action, to the patient's left and cranially |
    | ``move_effective`` | the last action moved the C-arm: ``moved_mm`` is not zero |
    | ``move_clipped`` | the workspace shortened the last move: ``moved_mm`` differs from ``m(a)`` |
    | ``patient`` | id of the patient |
    | ``domain`` | with `domain_randomization` or `image_chain` only: the X-ray system, as JSON text |

    The first four and ``is_success`` are ground truth for rewards, oracles and benchmarks; a fair policy does not use
    them. After ``reset`` and after a declaration, ``moved_mm`` is zero and the two flags are False.

    ## Rendering

    ``render_mode="rgb_array"`` returns the X-ray with cross-hairs, the name of the target, the number of exposures
    and the dose, ``"human"`` shows it in a window. `show_distance` adds the distance to the target, which people and
    models that see the frame could otherwise not know. ``gymnasium.wrappers.RecordVideo`` needs moviepy:
    ``pip install 'carm-env[video]'``.

    ## Vectorization

    ``gymnasium.make_vec("CArmNav-v0", num_envs=N)`` returns `carm_env.envs.vector.CArmNavVectorEnv`, which steps N
    episodes together on threads or on a GPU. stable-baselines3 does not accept Gymnasium's vector environments; use
    ``stable_baselines3.common.env_util.make_vec_env("CArmNav-v0", n_envs=N)`` there. `action_masks` is the method that
    sb3-contrib's ``MaskablePPO`` calls.

    ## Arguments

    Args:
        render_mode: ``"rgb_array"``, ``"human"`` or None. Without a screen, ``"human"`` warns and shows nothing.
        patients: patients to draw from: the name of a patient (``"virtual:3"``, the name of an imported patient or the
            path of a CT), of a cohort or of its split (``"standard/train"``), or a list of these
            (`carm_env.patients.reference`).
        obs_type: ``"dict"`` or ``"image"``.
        image_size: height and width of the image in pixels, 16-2048.
        reward_type: ``"progress"``, ``"distance"`` or ``"sparse"``.
        reward_options: further fields of `carm_env.envs.rewards.RewardSettings`.
        tolerance_mm: largest distance at which a declaration is a success, mm.
        extents_mm: lengths of SMALL, MODERATE and LARGE, mm.
        projection: ``"AP"`` (source in front of the patient, as in the paper) or ``"PA"``.
        alpha_deg: angulation of every view, -45 to 45; positive RAO (`carm_env.geometry.CArmPose`).
        beta_deg: angulation of every view, -45 to 45; positive CAUD.
        isocenter_depth_mm: distance of the isocentre from mid-depth of the body, along the central ray towards the
            source, -250 to 250 mm (`carm_env.geometry.check_isocenter_depth`).
        geometry: fields of `carm_env.geometry.CArmGeometry`.
        xray: fields of `carm_env.xray.settings.XRaySettings`.
        targets: landmarks to draw the target from, as ids or names; None for all 14.
        target_encoding: ``"index"`` or ``"one_hot"``.
        show_distance: whether rendered frames show the distance to the target.
        domain_randomization: severity from 0 (none) to 1, or a mapping with ``severity`` and ``groups``
            (`carm_env.randomization.draw.CHAIN_GROUPS`). A CT scanner is part of the patient's name:
            ``virtual:0?scan=7``.
        image_chain: fields of `carm_env.randomization.chain.ImageChain`: one X-ray system for all episodes, with
            shutters, rotation, crop or inverted polarity. Give this or `domain_randomization`.

    Raises:
        ValueError: an argument is out of range.
        UnknownNameError: an unknown patient, landmark, reward or key; the message names the nearest one.

    ## Version History

    * v0: first version
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 2}

    def __init__(
        self,
        render_mode: str | None = None,
        patients: PatientName | Sequence[PatientName] = "virtual:0",
        obs_type: ObsType = "dict",
        image_size: int = 256,
        reward_type: RewardType = "progress",
        reward_options: Mapping[str, float] | None = None,
        tolerance_mm: float = DEFAULT_TOLERANCE_MM,
        extents_mm: Sequence[float] = DEFAULT_EXTENTS_MM,
        projection: Projection = "AP",
        alpha_deg: float = 0.0,
        beta_deg: float = 0.0,
        isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM,
        geometry: Mapping[str, float] | None = None,
        xray: Mapping[str, Any] | None = None,
        targets: Sequence[int | str] | None = None,
        target_encoding: TargetEncoding = "index",
        show_distance: bool = False,
        domain_randomization: float | Mapping[str, Any] = 0.0,
        image_chain: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value, valid in (
            ("render_mode", render_mode, (None, *self.metadata["render_modes"])),
            ("obs_type", obs_type, OBS_TYPES),
            ("target_encoding", target_encoding, TARGET_ENCODINGS),
        ):
            if value not in valid:
                raise UnknownNameError(name, value, valid)
        self._state = EpisodeState.allocate(1)
        self.tolerance_mm = finite_number("tolerance_mm", tolerance_mm)
        if self.tolerance_mm <= 0:
            raise ValueError(f"tolerance_mm is {tolerance_mm!r}, expected a positive length.")
        self.render_mode = render_mode
        self.show_distance = show_distance
        self._refs = PatientRef.expand(patients)
        self.patients = tuple(str(ref) for ref in self._refs)
        self.targets = _target_ids(targets)
        self.obs_type = obs_type
        self.target_encoding = target_encoding
        self.image_size = check_image_size(image_size)
        self.rewards = _settings(RewardSettings, reward_options or {}, reward_type=reward_type)
        self.lattice = MoveLattice(tuple(extents_mm))  # type: ignore[arg-type]
        self._view = CArmPose((0.0, 0.0, 0.0), alpha_deg, beta_deg, projection)
        for name in ("alpha_deg", "beta_deg"):
            if abs(getattr(self._view, name)) > MAX_ANGLE_DEG:
                raise ValueError(
                    f"{name} is {getattr(self._view, name)!r}, expected -{MAX_ANGLE_DEG:g} to {MAX_ANGLE_DEG:g}: moves "
                    "are along the patient, and in a lateral view they would be along the beam."
                )
        self.isocenter_depth_mm = check_isocenter_depth(isocenter_depth_mm)
        self._transition = Transition(self._view, self.lattice, self.isocenter_depth_mm)
        self._geometry = _settings(CArmGeometry, geometry or {})
        self._xray = _settings(XRaySettings, xray or {})
        self.domain_randomization = DomainRandomization.of_chain(domain_randomization)
        self._chain = ImageChain.from_json(image_chain) if image_chain else None
        if self._chain is not None and self.domain_randomization.severity:
            raise ValueError(
                "domain_randomization and image_chain are both given, and an episode has one X-ray system: leave "
                "one of them out."
            )
        self.observation_space: gym.Space[Any] = self._make_observation_space()
        self.action_space = gym.spaces.Discrete(N_ACTIONS)
        self._episode: EpisodeSpec | None = None
        self._ref: PatientRef | None = None
        self._scene: Scene | None = None
        self._window: Any = None

    @property
    def episode(self) -> EpisodeSpec:
        """The running episode: patient, target and start."""
        if self._episode is None:
            raise gym.error.ResetNeeded("there is no episode yet: call reset() first.")
        return self._episode

    @property
    def pose(self) -> CArmPose:
        """The pose of the C-arm."""
        self._check_running()
        return replace(self._view, isocenter_lps_mm=tuple(self._state.isocenters_lps_mm[0].tolist()))

    @property
    def field_of_view_mm(self) -> float:
        """Side of the square that the image shows, at mid-depth of the body, mm."""
        return self._geometry.field_of_view_at_mm(self.isocenter_depth_mm)

    @property
    def scene(self) -> Scene:
        """Patient and camera of the running episode."""
        if self._scene is None:
            scene = load_scene(self._ref or self.episode.patient, self._geometry, self._xray)
            self._scene = self._behind_chain(scene)
        return self._scene

    @property
    def has_image_chain(self) -> bool:
        """Whether the image is that of another X-ray system than the camera's."""
        return self._chain is not None

    def _behind_chain(self, scene: Scene) -> Scene:
        return scene if self._chain is None else replace(scene, camera=ChainCamera(scene.camera, self._chain))

    @property
    def tolerance_mm(self) -> float:
        """Largest distance at which a declaration is a success, mm."""
        return float(self._state.tolerances_mm[0])

    @tolerance_mm.setter
    def tolerance_mm(self, value: float) -> None:
        self._state.tolerances_mm[0] = value

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode and takes its first X-ray; see the class for `options`.

        Raises:
            UnknownNameError: an unknown option, patient or landmark; the message names the nearest one.
            ValueError: a start outside the workspace, or a patient without the target.
        """
        self._begin(seed, options or {})
        self._expose()
        if self.render_mode == "human":
            self.render()
        return self._observation(), self._info()

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Moves the C-arm and takes an X-ray, or declares the view aligned.

        Raises:
            ValueError: `action` is outside the action space; nothing is changed.
            gymnasium.error.ResetNeeded: there is no episode, or it has ended.
        """
        self._check_running()
        if self._state.declared[0]:
            raise gym.error.ResetNeeded("the episode has ended: call reset() before step().")
        move = Move.from_index(action)  # type: ignore[arg-type]
        reward = self._transition.step(self._state, slice(None), np.array([move.index]), self.rewards)
        if not move.is_aligned:
            self._expose()
        if self.render_mode == "human":
            self.render()
        return self._observation(), float(reward[0]), move.is_aligned, False, self._info()

    def set_target(self, target: int | str) -> tuple[Observation, dict[str, Any]]:
        """Changes the target of the running episode, as a clinician may wish; no X-ray is taken.

        Args:
            target: id or name of a landmark.

        Returns:
            Observation and info of the last X-ray with the new target.

        Raises:
            UnknownNameError: an unknown landmark.
            ValueError: the patient lacks the landmark; nothing is changed.
            gymnasium.error.ResetNeeded: there is no episode, or it has ended.
        """
        self._check_running()
        if self._state.declared[0]:
            raise gym.error.ResetNeeded("the episode has ended: call reset() before set_target().")
        key = landmark(target).id
        landmark_lps_mm(self.scene.patient, key)
        self._transition.retarget(self._state, 0, self.scene.patient, key)
        self._episode = replace(self.episode, target=key)
        return self._observation(), self._info()

    def action_masks(self) -> NDArray[np.bool_]:
        """``(49,)``: whether every axis that the action commands would move, for ``MaskablePPO`` of sb3-contrib."""
        self._check_running()
        return self._transition.action_masks(self._state)[0]

    def render(self) -> NDArray[np.uint8] | None:
        """Returns a frame ``(H', W', 3)`` uint8, or shows it in a window in mode ``"human"``."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; use gym.make(..., render_mode='rgb_array').")
            return None
        self._check_running()
        from carm_env.envs.display import Screen, draw_view

        state = self._state
        distance = f"{state.distances_mm[0]:.0f} mm   " if self.show_distance else ""
        frame = draw_view(
            self._shown_image(),
            f"find: {landmark(self.episode.target).name}",
            f"exposure {state.exposures[0]}   {distance}{state.dose_mgy[0]:.2f} mGy",
        )
        if self.render_mode == "rgb_array":
            return frame
        if self._window is None:
            self._window = Screen("CArmNav-v0 (research only)", self.metadata["render_fps"])
        self._window.show(frame)
        return None

    def close(self) -> None:
        """Closes the window."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def __getstate__(self) -> dict[str, Any]:
        # A window cannot be pickled. A patient is large; the copy loads it again.
        return {**self.__dict__, "_scene": None, "_window": None}

    def _make_observation_space(self) -> gym.Space[Any]:
        image = gym.spaces.Box(0, 255, (self.image_size, self.image_size, 1), np.uint8)
        if self.obs_type == "image":
            return image
        index, one_hot = gym.spaces.Discrete(N_LANDMARKS), gym.spaces.Box(0.0, 1.0, (N_LANDMARKS,), np.float32)
        return gym.spaces.Dict({"image": image, "target": index if self.target_encoding == "index" else one_hot})

    def _check_running(self) -> None:
        if self._episode is None:
            raise gym.error.ResetNeeded("there is no episode yet: call reset() before step() and render().")

    def _begin(self, seed: int | None, options: Mapping[str, Any]) -> None:
        """Draws patient, target and start, as far as `options` do not set them."""
        super().reset(seed=seed)
        check_keys("reset option", options, RESET_OPTIONS)
        # What an option sets is drawn nevertheless: the draws that follow stay the same.
        ref = self._refs[int(self.np_random.integers(len(self._refs)))]
        if "patient" in options:
            ref = PatientRef.parse(options["patient"])
        scene = load_scene(ref, self._geometry, self._xray)
        patient = scene.patient
        target = draw_target(patient, self.np_random, None if "target" in options else self.targets)
        if "target" in options:
            target = landmark(options["target"]).id
        landmark_lps_mm(patient, target)
        start: int | tuple[float, ...] = draw_start(patient, target, self.tolerance_mm, self.np_random, self._view)
        if "start" in options:
            start = parse_start(options["start"])
        isocenter = start_isocenter_lps_mm(start, patient, self._view, self.isocenter_depth_mm)

        if self.domain_randomization.severity:
            # Drawn last, so that the episode is the one without randomisation.
            seed, domain = int(self.np_random.integers(2**31)), self.domain_randomization
            self._chain = draw_domain(seed, domain.severity, domain.groups).chain
        self._episode = EpisodeSpec(str(ref), target, start)
        self._ref, self._scene = ref, self._behind_chain(scene)
        self._state.domains[0] = None if self._chain is None else self._chain.to_text()
        self._transition.begin(self._state, 0, patient, target, isocenter)

    def _expose(self) -> None:
        """Takes an X-ray."""
        xray = self.scene.camera.expose(self.pose, self.image_size, self._draw_noise_seed())
        self._image = xray.image
        self._state.add_exposures(slice(None), [xray.exposure], [xray.quality])

    def _draw_noise_seed(self) -> int:
        return int(self.np_random.integers(2**31))

    def _shown_image(self) -> NDArray[np.uint8]:
        """``(H, W)``: the last X-ray."""
        return self._image

    def _observation(self) -> Observation:
        image = self._shown_image()[:, :, None].copy()
        if self.obs_type == "image":
            return image
        return {"image": image, "target": encode_targets(self._state.targets, self.target_encoding)[0]}

    def _info(self) -> dict[str, Any]:
        rows = {key: values[0] for key, values in self._transition.infos(self._state).items()}
        return {key: value.item() if isinstance(value, np.generic) else value for key, value in rows.items()}


def encode_targets(targets: NDArray[np.int64], encoding: TargetEncoding) -> NDArray[Any]:
    """Returns landmark ids ``(N,)`` as observed: indices ``(N,)`` int64, or one-hot vectors ``(N, 14)`` float32.

    >>> encode_targets(np.array([3]), "index")
    array([2])
    """
    indices = targets - 1
    return indices if encoding == "index" else np.eye(N_LANDMARKS, dtype=np.float32)[indices]


def _target_ids(targets: Sequence[int | str] | None) -> tuple[int, ...]:
    if targets is None:
        return tuple(item.id for item in LANDMARKS)
    if isinstance(targets, (str, int)):
        raise ValueError(f"targets is {targets!r}, expected a list of landmark ids or names, or None for all.")
    ids = tuple(sorted({landmark(key).id for key in targets}))
    if not ids:
        raise ValueError("targets is empty, expected at least one landmark id or name, or None for all.")
    return ids


def _settings(kind: type, values: Mapping[str, Any], **fixed: Any) -> Any:
    """Returns an instance of the dataclass `kind` with `fixed` fields and the user's `values` for the others."""
    fields = [name for name in kind.__dataclass_fields__ if name not in fixed]  # type: ignore[attr-defined]
    check_keys(f"{kind.__name__} option", values, fields)
    return kind(**fixed, **values)
