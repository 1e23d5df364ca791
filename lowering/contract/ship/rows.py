"""The lines of the checklist that can be looked at on any machine, one function each."""

from __future__ import annotations

import torch

from lowering.contract.converting import digest_in
from lowering.contract.ship.looked_at import Shipped
from lowering.contract.ship.result import Row
from lowering.contract.verifying import interface_problems

# Kinds of package values that hold weights in fewer bits.
_COMPRESSED = "constexpr_"
# Reasons of the planner that say what an operator costs, not what it is.
_BY_PRICE = "segment."
# Of the price, what may be due to operators that the Neural Engine does not have.
_UNABLE = 0.5
# Beside weights a package holds the program, its sources and the contract.
_BESIDE_WEIGHTS = 4_000_000
_BYTES = {"float16": 2, "float32": 4, "safe": 2}


def inference_mode(subject: Shipped) -> Row:
    """No operator of the program behaves as in training."""
    found = []
    for node in subject.folder.program.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        names = [argument.name for argument in node.target._schema.arguments]
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        if given.get("train") is True or given.get("training") is True:
            found.append(f"{node.target} {node.name}")
    if found:
        return Row("inference mode", "fail", ", ".join(found[:3]), "call model.eval() and export")
    return Row("inference mode", "pass", "no operator is in training mode")


def pure(subject: Shipped) -> Row:
    """The same input gives the same output."""
    for once, again in subject.results:
        for name, value in once.items():
            if not torch.equal(torch.nan_to_num(value), torch.nan_to_num(again[name])):
                return Row(
                    "pure forward",
                    "fail",
                    f"two calls on one input differ in {name!r}",
                    "take random numbers out of the model, or pass them in as an input",
                )
    return Row("pure forward", "pass", f"{len(subject.results)} inputs, each called twice")


def varied(subject: Shipped) -> Row:
    """Other inputs give other outputs."""
    first, *others = (once for once, _ in subject.results)
    for other in others:
        if any(not torch.equal(first[name], other[name]) for name in first):
            return Row("varied inputs", "pass", f"outputs follow {len(subject.calls)} inputs")
    return Row(
        "varied inputs",
        "fail",
        "the outputs are the same for every input",
        "look whether the output depends on the input, and whether weights are loaded",
    )


def package(subject: Shipped) -> Row:
    """There is a package, and it can be read."""
    operators = len(subject.model.ops)
    if subject.path is None:
        return Row("package", "pass", f"converted now, {operators} operators")
    return Row("package", "pass", f"{subject.path.name}, {operators} operators")


def contract_digest(subject: Shipped) -> Row:
    """The package was made from this contract."""
    digest = digest_in(subject.model.metadata)
    differences = interface_problems(subject.model, subject.contract)
    if differences:
        return Row("contract", "fail", "; ".join(differences), _again(subject))
    if digest is None:
        return Row("contract", "fail", "the package names none", _again(subject))
    if digest != subject.contract.digest():
        return Row("contract", "fail", "the package is of another contract", _again(subject))
    return Row("contract", "pass", f"sha256 {digest[:12]} in the package")


def preprocessing(subject: Shipped) -> Row:
    """Raw pictures become the numbers that the model was trained on."""
    if not subject.contract.images:
        return Row("preprocessing", "pass", "the model takes no pictures")
    seen = [item for item in subject.verification.outputs if item.name.startswith("picture ")]
    wrong = [item for item in seen if not item.passed]
    if wrong:
        return Row(
            "preprocessing",
            "fail",
            f"the first product of {wrong[0].name} is {wrong[0].rel_l2:.1e} off",
            _again(subject),
        )
    if not seen:
        return Row(
            "preprocessing",
            "skip",
            "the package has no product of the pixels that torch has too",
            f"ane-passes verify {subject.package_word} {subject.folder.path}",
        )
    worst = max(item.rel_l2 for item in seen)
    names = ", ".join(subject.verification.labels)
    return Row("preprocessing", "pass", f"first product within {worst:.1e}, on {names}")


def finite(subject: Shipped) -> Row:
    """No number is NaN, infinite or beyond float16."""
    for item in subject.watched.origins:
        text = f"{item.problem} in {item.count} elements of {item.value} ({item.type})"
        return Row("finite", "fail", text, f"ane-passes predict {subject.package_word} --watch")
    return Row("finite", "pass", f"{len(subject.calls) - 1} inputs, black and white among them")


def accuracy(subject: Shipped) -> Row:
    """Outputs are as near to the model's as half precision allows."""
    outputs = [o for o in subject.verification.outputs if not o.name.startswith("picture ")]
    wrong = [item for item in outputs if not item.passed]
    command = f"ane-passes verify {subject.package_word} {subject.folder.path}"
    if subject.verification.error:
        return Row("accuracy", "fail", subject.verification.error, command)
    if wrong:
        text = f"{wrong[0].name} is {wrong[0].rel_l2:.1e} off, {wrong[0].threshold:.1e} allowed"
        return Row("accuracy", "fail", text, command)
    worst = max(item.rel_l2 for item in outputs)
    return Row("accuracy", "pass", f"{len(outputs)} outputs within {worst:.1e}")


def metric(subject: Shipped) -> Row:
    """The task's own measure is reached."""
    agreed = subject.verification.agreement
    if agreed is None:
        return Row(
            "metric",
            "skip",
            "the contract asks for none",
            f"ane-passes verify {subject.package_word} {subject.folder.path} --metric cosine",
        )
    text = f"{agreed.metric} {agreed.mean:.4f} over {len(agreed.values)}, at least "
    text += f"{agreed.at_least:g}"
    command = "" if agreed.passed else _again(subject)
    return Row("metric", "pass" if agreed.passed else "fail", text, command)


def sizes(subject: Shipped) -> Row:
    """Every size is fixed or one of a list, which the Neural Engine needs."""
    open_ended = [
        name
        for name, feature in subject.model.inputs.items()
        if not feature.enumerated and any(low != high for low, high in feature.ranges or ())
    ]
    if open_ended:
        text = f"sizes of {', '.join(open_ended)} are ranges"
        return Row("sizes", "fail", text, "convert with fixed sizes, or with --sizes")
    listed = ", ".join(f"{e.name} {list(e.shape)}" for e in subject.contract.inputs)
    return Row("sizes", "pass", f"fixed: {listed}")


def states(subject: Shipped) -> Row:
    """Buffers that the model writes are states of the package."""
    wanted, kept = len(subject.contract.states), len(list(subject.model.make_state()))
    if wanted and not kept:
        return Row("states", "fail", f"{wanted} written buffers, no state", _again(subject))
    return Row("states", "pass", f"{kept} states" if kept else "none is written")


def precision(subject: Shipped) -> Row:
    """Arithmetic is float16, which is all that the Neural Engine has."""
    floats = [
        value.dtype.name
        for op in subject.model.ops
        for value in op.outputs
        if value.dtype is not None and value.dtype.is_float
    ]
    wide = sum(name != "fp16" for name in floats)
    if floats and wide == len(floats):
        text = f"all of {wide} values are float32"
        return Row("precision", "fail", text, "export with --precision float16")
    return Row("precision", "pass", f"{len(floats) - wide} of {len(floats)} values are float16")


def compression(subject: Shipped) -> Row:
    """Whether weights are stored in fewer bits."""
    kinds = sorted({op.type for op in subject.model.ops if op.type.startswith(_COMPRESSED)})
    if kinds:
        return Row("compression", "pass", ", ".join(kinds))
    command = f"ane-passes compress {subject.package_word} {subject.folder.path} --ladder"
    return Row("compression", "skip", "weights are dense", command)


def placement(subject: Shipped) -> Row:
    """Operators are such that the Neural Engine has; *predicted*."""
    made = subject.plan
    total = sum(op.chosen_ms for op in made.ops)
    unable = [
        op for op in made.ops if op.reason is not None and not op.reason.rule.startswith(_BY_PRICE)
    ]
    price = sum(op.chosen_ms for op in unable)
    share = made.ane_share
    text = f"{share.ops:.0%} of {len(made.ops)} operators on the ANE of {made.target}, predicted"
    if price > _UNABLE * total:
        rules = ", ".join(sorted({op.reason.rule for op in unable if op.reason is not None})[:4])
        return Row(
            "placement", "fail", f"{text}; {rules}", f"ane-passes plan {subject.package_word}"
        )
    return Row("placement", "pass", text)


def fallback(subject: Shipped) -> Row:
    """How often the program would change the device; *predicted*."""
    made = subject.plan
    cpu = sum(op.device == "cpu" for op in made.ops)
    return Row(
        "fallback", "pass", f"{made.switches} switches, {cpu} operators on the CPU, predicted"
    )


def size(subject: Shipped) -> Row:
    """The package holds the weights once."""
    weights = sum(tensor.numel() for tensor in subject.folder.program.state_dict.values())
    allowed = weights * _BYTES[subject.contract.precision] * 1.25 + _BESIDE_WEIGHTS
    if subject.path is None:
        command = f"ane-passes convert {subject.folder.path} -o {subject.package_word}"
        return Row("size", "skip", "the package is not on disk", command)
    found = sum(f.stat().st_size for f in subject.path.rglob("*") if f.is_file())
    text = f"{found / 1e6:.1f} MB for {weights / 1e6:.2f} million numbers"
    if found > allowed:
        return Row("size", "fail", text, f"ane-passes compare {subject.package_word} OTHER")
    return Row("size", "pass", text)


def labels(subject: Shipped) -> Row:
    """The package names the classes as the contract does."""
    task = subject.contract.task
    wanted = getattr(task, "labels", None)
    if wanted is None:
        return Row("labels", "pass", "the task has none")
    kept = [op.constants.get("classes") for op in subject.model.ops if op.type == "classify"]
    if not kept:
        return Row("labels", "pass", f"{len(wanted)} in the package's contract")
    found = [str(item) for item in kept[0] or ()]
    if found != list(wanted):
        other = next((a for a, b in zip(found, wanted, strict=False) if a != b), "none")
        return Row("labels", "fail", f"the package says {other!r} instead", _again(subject))
    return Row("labels", "pass", f"{len(found)}, in the contract's order")


def _again(subject: Shipped) -> str:
    return f"ane-passes convert {subject.folder.path} -o {subject.package_word}"
