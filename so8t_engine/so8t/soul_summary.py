"""What a soul file holds, as plain values for a person or for JSON."""

from __future__ import annotations

from dataclasses import asdict

from so8t_engine.so8t.rotation import commutator_norm, determinant, orthogonality_error
from so8t_engine.so8t.schedule import sigmoid
from so8t_engine.so8t.soul_file import Soul


def soul_summary(soul: Soul) -> dict[str, object]:
    """Step, α, g, the instruments of the rotations, head shapes, PET, metadata and the import's report.

    What the file does not hold is None or empty. ``alpha_source`` is ``scheduled``, ``learned`` or None
    where the file does not say: only a learned α can have converged.
    """
    safe_B88, cmd_B88, total_B88 = (soul.rotation(which) for which in ("safe", "cmd", "total"))
    known = {"r_safe": safe_B88, "r_cmd": cmd_B88, "r_total": total_B88}
    commutator_B = None if safe_B88 is None or cmd_B88 is None else commutator_norm(cmd_B88, safe_B88)
    return {
        "step": soul.step,
        "alpha": soul.alpha,
        "gate": None if soul.alpha is None else sigmoid(soul.alpha),
        "alpha_source": soul.metadata.gate_source or None,
        "commutator_mean": None if commutator_B is None else float(commutator_B.mean()),
        "commutator_max": None if commutator_B is None else float(commutator_B.max()),
        "rotations": {
            name: None
            if matrix_B88 is None
            else {
                "blocks": matrix_B88.shape[0],
                "orthogonality_max": float(orthogonality_error(matrix_B88).max()),
                "determinant_min": float(determinant(matrix_B88).min()),
                "determinant_max": float(determinant(matrix_B88).max()),
            }
            for name, matrix_B88 in known.items()
        },
        "heads": {name: list(tensor.shape) for name, tensor in soul.heads.items()},
        "pet": dict(soul.pet),
        "metadata": asdict(soul.metadata),
        "report": list(soul.report),
    }
