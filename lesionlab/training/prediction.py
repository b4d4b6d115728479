"""Predictions of a trained model for any number of lesions, in batches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lesionlab.crops.sampling import Samples
from lesionlab.training.devices import Precision, autocast, resolve
from lesionlab.training.paper import Experiment
from lesionlab.training.parts import Stream
from lesionlab.training.targets import columns


def predict(
    experiment: Experiment,
    weights: Mapping[str, torch.Tensor],
    samples: Samples | Stream,
    *,
    batch_size: int = 32,
    device: str = "auto",
    precision: Precision = "32-true",
) -> torch.Tensor:
    """What a model with these weights predicts.

    Args:
        experiment: Makes the model.
        weights: `Fitted.state`, or what `checkpoints.load_weights(folder)` gives.
        samples: Normalised as those of the training were.
        batch_size: Lesions at once.
        device: `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
        precision: `"32-true"` or `"bf16-mixed"`.

    Returns:
        (lesion, column) float32 on the CPU; columns as `targets.columns(experiment.targets)`.
    """
    if not samples.lesion_ids:
        raise ValueError("samples: expected at least one lesion, got none")
    place = resolve(device)
    model = trained_model(experiment, weights).to(place)
    return in_batches(experiment, model, samples.to(place), batch_size, precision)[0]


def trained_model(experiment: Experiment, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """An experiment's model with these weights, in evaluation mode, on the CPU."""
    # any seed will do, the weights are replaced; the caller's random state stays as it was
    with torch.random.fork_rng(devices=[]):
        model = experiment.model(0)
    model.load_state_dict(dict(weights))
    return model.eval()


def in_batches(
    experiment: Experiment,
    model: nn.Module,
    samples: Samples | Stream,
    batch_size: int,
    precision: Precision,
    labels: torch.Tensor | None = None,
) -> tuple[torch.Tensor, float]:
    """Predictions of a model that is where the samples are, and the mean loss with labels."""
    model.eval()
    parts, total = [], 0.0
    device = next(model.parameters()).device
    with torch.no_grad(), autocast(device, precision):
        for number, batch in enumerate(samples.split(batch_size)):
            outputs = experiment.forward(model, batch)
            parts.append(experiment.predict(outputs).float().cpu())
            if labels is not None:
                low = number * batch_size
                truth = labels[low : low + batch_size].to(device)
                total += float(experiment.loss(outputs, truth)[0]) * len(truth)
    predictions = torch.cat(parts)
    expected = (len(samples.lesion_ids), len(columns(experiment.targets)))
    if predictions.shape != expected:
        raise ValueError(
            f"predict of {experiment.name} gave shape {tuple(predictions.shape)}, expected "
            f"{expected}: lesions, {', '.join(columns(experiment.targets))}"
        )
    return predictions, total / len(predictions)
