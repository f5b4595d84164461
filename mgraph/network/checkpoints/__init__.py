"""Files of weights: checkpoints as the world writes them in, state dicts out. No file is ever unpickled into code.

:mod:`files` reads a file, whatever its name, into plain containers (:mod:`inert` does so where a pickle wants more
than those), and :mod:`memory` takes what is in memory for one; :mod:`search` finds the sets of weights in them;
:mod:`names` brings their names to the network's; :mod:`choosing` takes the one that is meant; :mod:`fitting` loads it
into the network and reads it back; :mod:`values` checks what that gave; :mod:`curves` recognises a trained curve of
the field's reference code; :mod:`adapters` reads and writes those of peft; :mod:`writing` is the way out.
"""

from mgraph.network.checkpoints.adapters import from_adapter, is_adapted, left_out, write_adapter, write_directory
from mgraph.network.checkpoints.curves import TrainedCurve, find_curve, fit_curve
from mgraph.network.checkpoints.files import Content, checkpoints_in, read_content
from mgraph.network.checkpoints.fitting import Options, extra_state, fit_content
from mgraph.network.checkpoints.memory import content_of, digest_of
from mgraph.network.checkpoints.values import FittedCheckpoint, fit_to_layout
from mgraph.network.checkpoints.writing import state_dict, write_pt, write_safetensors, write_whole

__all__ = [
    "Content",
    "FittedCheckpoint",
    "Options",
    "TrainedCurve",
    "checkpoints_in",
    "content_of",
    "digest_of",
    "extra_state",
    "find_curve",
    "fit_content",
    "fit_curve",
    "fit_to_layout",
    "from_adapter",
    "is_adapted",
    "left_out",
    "read_content",
    "state_dict",
    "write_adapter",
    "write_directory",
    "write_pt",
    "write_safetensors",
    "write_whole",
]
