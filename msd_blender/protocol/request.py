# SPDX-License-Identifier: GPL-3.0-or-later
"""The request for a job: the one table of a job's options.

`JobRequest.validate`, both command lines, the API's schema and Blender's properties derive from it. A further option is
a field here, a property in `properties.py` and a row in `panels.py`. tests/blender/test_options.py looks for it at
every door, and docs/architecture.md lists the places that notice it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .cameras import CAMERA, MAX_CAMERAS, PlacedCamera, split_camera
from .errors import ProtocolError
from .frames import MAX_FACES, MAX_TEXTURE_SIZE
from .options import MAX_PROMPT, MODES, Option, option, options_of

MAX_ITERATIONS = 100_000
MAX_SEED = 2**53 - 1  # the largest integer that every reader of JSON keeps exact
MAX_PRIORITY = 100
MAX_CONTROL = 2.0

GUIDANCES = ("msd", "sds", "sdi", "vsd")
MAPS = ("roughness", "metallic", "normal")  # textures beside base colour
CONTROLS = ("depth", "normal", "canny")  # pictures of a mesh that ControlNets follow
AXES = ("", "x", "y", "z")
BACKGROUNDS = ("random", "white", "gray", "black")
# New ones come last: a .blend file has their numbers.
RASTERIZERS = ("auto", "nvdiffrast", "cpu", "warp")
DEVICES = ("auto", "cuda", "cpu", "mps", "xpu")


@dataclass
class JobRequest:
    """Everything that decides a job's result: a prompt, and options of which most may be left out."""

    prompt: str = option(description="what to make, for example: a red mushroom", length=MAX_PROMPT)
    negative_prompt: str = option("", description="what to keep away from", length=MAX_PROMPT)
    seed: int = option(0, description="start of all random numbers: the same seed gives the same asset", high=MAX_SEED)
    guidance: str = option(
        "msd",
        description="how the diffusion model guides the asset: by mean-shift distillation (msd), score distillation "
        "sampling (sds), score distillation via inversion (sdi) or variational score distillation (vsd)",
        choices=GUIDANCES,
    )
    iterations: int | None = option(
        None,
        description="optimization steps, shared out over the phases; fewer are faster and coarser",
        low=1,
        high=MAX_ITERATIONS,
    )
    guidance_scale: float | None = option(
        None, description="weight of the prompt (classifier-free guidance)", high=1000
    )
    model: str = option(
        "",
        description="diffusers folder, .safetensors file or id in the Hugging Face cache, on the server's machine; "
        "empty for the bundled model",
        folder=True,
    )
    loras: list[str] = option(
        [],
        description="LoRA on the server's machine that is put on the model, as FILE or FILE:WEIGHT; the weight is 1 "
        "if left out",
        folder=True,
        syntax="FILE:WEIGHT",
    )
    rasterizer: str = option(
        "auto",
        description="how views are rendered; auto takes nvdiffrast or Warp, where they are installed, on CUDA",
        choices=RASTERIZERS,
    )
    device: str = option(
        "auto",
        description="where the server computes: cuda is an NVIDIA card, or an AMD one, mps an Apple GPU, xpu an Intel "
        "one; auto takes the first that is there, else the CPU",
        choices=DEVICES,
    )
    memory_limit: float | None = option(
        None,
        description="memory that the job may hold, of the card or else of the machine; with less it is slower, and "
        "with much less it sees fewer views at once",
        unit="GiB",
        none="all there is",
        low=0.1,
        high=100_000,
    )
    client_key: str = option(
        "", description="the client's own name of the job: the same key gives the same job", internal=True
    )
    priority: int = option(
        0, description="of the jobs that wait, the highest runs first", low=-MAX_PRIORITY, high=MAX_PRIORITY
    )
    mode: str = option(
        "generate",
        description="generate makes an object from nothing; texture paints the uploaded mesh and keeps its vertices "
        "and UVs; refine also moves its vertices",
        choices=MODES,
    )
    mesh: str = option("", description="id of the uploaded mesh, for texture and refine", internal=True)
    diversity: float | None = option(
        None,
        description="bandwidth of the mean shift at the start, in standard deviations of the latents: smaller keeps "
        "more of the prompt's meanings, larger settles on one",
        low=1e-3,
        high=1000,
    )
    sharpness: float | None = option(
        None,
        description="bandwidth of the mean shift at the end, in standard deviations of the latents: smaller is sharper",
        low=1e-3,
        high=1000,
    )
    target_faces: int | None = option(
        None,
        description="triangles of the result; of refine, only with remesh",
        low=100,
        high=MAX_FACES,
        modes=("generate", "refine"),
    )
    texture_size: int | None = option(
        None, description="edge of a new texture", unit="pixels", low=64, high=MAX_TEXTURE_SIZE
    )
    maps: list[str] = option([], description="textures to paint beside base colour", choices=MAPS)
    flat: bool = option(False, description="shade with flat instead of smooth normals")
    symmetry: str = option(
        "",
        description="axis along which the shape is mirrored, at the plane through the origin",
        choices=AXES,
        modes=("generate", "refine"),
    )
    max_displacement: float | None = option(
        None, description="how far a vertex may move", unit="metres", none="no limit", high=1000, modes=("refine",)
    )
    remesh: bool = option(
        False, description="let the topology change; a texture becomes vertex colours", modes=("refine",)
    )
    regularization: float | None = option(None, description="weight of smoothness, usually 1", high=1000)
    elevation: list[float] | None = option(
        None, description="lowest and highest camera above the horizon", unit="degrees", low=-90, high=90
    )
    field_of_view: float | None = option(
        None, description="field of view of the cameras", unit="degrees", low=5, high=120
    )
    view: list[float] | None = option(
        None,
        description="azimuth and elevation of the view that counts most: half of the cameras stand near it",
        unit="degrees",
        none="all sides alike",
        low=-180,
        high=180,
        syntax="AZIMUTH ELEVATION",
    )
    cameras: list[str] = option(
        [],
        description="a side that the cameras favour: its azimuth (-180 to 180) and elevation (-90 to 90) in degrees, "
        "and if wanted a prompt for its pictures in place of the job's, as 30,10 or 30,10:a smiling face; half of the "
        "cameras stand near these sides, in turns",
        syntax="AZIMUTH,ELEVATION:PROMPT",
        form=CAMERA,
        most=MAX_CAMERAS,
    )
    background: str = option(
        "random", description="background behind the object while it is optimized", choices=BACKGROUNDS
    )

    control: list[str] = option(
        [],
        description="pictures of the mesh that the model follows by ControlNet, so that what it paints keeps to the "
        "mesh's parts: its depth, its normals, its edges (canny)",
        choices=CONTROLS,
        modes=("texture", "refine"),
    )
    control_model: str = option(
        "",
        description="ControlNet on the server's machine, a file or a folder, or a folder with one for each picture, "
        "named for it; empty for the bundled model's",
        folder=True,
        modes=("texture", "refine"),
    )
    control_strength: float = option(
        1.0, description="weight of the ControlNets", high=MAX_CONTROL, modes=("texture", "refine")
    )
    image_prompt: str = option(
        "", description="id of the uploaded picture that the model follows beside the prompt", internal=True
    )
    image_prompt_strength: float = option(
        0.6, description="weight of the image prompt: 1 as the IP-Adapter was trained, 0 not at all", high=MAX_CONTROL
    )
    ip_adapter: str = option(
        "",
        description="IP-Adapter on the server's machine, by which the model sees the image prompt: a .safetensors "
        "file, with its CLIP image encoder in a folder image_encoder or clip_vision nearby",
        folder=True,
    )

    def validate(self, uploaded: bool = True) -> JobRequest:
        """Return self; raise `ProtocolError` with one sentence where an option has a value that it may not have.

        uploaded: check also that a mesh is named where the mode needs one, and only there. False before a client has
            uploaded the mesh, and where the mesh is at hand without an upload.
        """
        for name, each in OPTIONS.items():
            each.check(getattr(self, name))
        self.placed_cameras()
        if self.control and self.mode == "generate":
            raise ProtocolError("A ControlNet follows a mesh, which mode generate has not: leave out control.")
        if self.image_prompt and not self.ip_adapter:
            raise ProtocolError("An image prompt needs an IP-Adapter: name its file (ip_adapter).")
        if uploaded and self.mode == "generate" and self.mesh:
            raise ProtocolError("Mode generate starts from nothing: leave out the mesh.")
        if uploaded and self.mode != "generate" and not self.mesh:
            raise ProtocolError(f"Mode {self.mode} needs a mesh: upload it first.")
        return self

    def placed_cameras(self) -> list[PlacedCamera]:
        """Those of `cameras`. Raises `ProtocolError` where one cannot be read."""
        return [split_camera(each) for each in self.cameras]

    def prompts(self) -> list[str]:
        """The prompt and those of the cameras, each once."""
        return list(dict.fromkeys([self.prompt, *(each.prompt for each in self.placed_cameras() if each.prompt)]))


OPTIONS: dict[str, Option] = options_of(JobRequest)
# Options that name a file or folder of the server's.
PATHS = [name for name, each in OPTIONS.items() if each.folder and each.default == ""]
