#!/usr/bin/env bash
# transformers 5.24.0: RoBERTa, XLM-RoBERTa and CamemBERT as decoders number tokens from
# padding_idx + 1 on (2, 3, 4, ...) when they are called, with and without an attention mask, as in
# training. `generate` passes position_ids of its own, 0, 1, 2, ..., which the models take as rows of
# the position table. So the first tokens get rows that training never touches, the second of all
# the padding row, which is zero; every other token is two places off; and the logits that the first
# new token is chosen from are not those that the model gives for the same ids. Nothing is said.
#
# Seen with transformers 5.24.0 and torch 2.13.0 on Linux x86-64, models with random weights, one
# sequence without padding: rows [2, 3, 4, 5, 6] in a call and [0, 1, 2, 3, 4] in generate, for all
# three; logits differ by more than their standard deviation. BERT, beside them, agrees to 1e-5.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "numpy==2.3.5"
cat > "$folder/positions.py" <<'PY'
from importlib.metadata import version

import torch
import transformers

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "is_decoder": True,
}


def compared(family, body):
    """Rows of the position table in a call and in generate; how far the logits are apart."""
    torch.manual_seed(0)
    name = f"{family}LMHeadModel" if family == "Bert" else f"{family}ForCausalLM"
    kind = getattr(transformers, name)
    model = kind(getattr(transformers, f"{family}Config")(**SIZES)).eval()
    rows = []
    table = getattr(model, body).embeddings.position_embeddings
    table.register_forward_pre_hook(lambda module, given: rows.append(given[0][0].tolist()))
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        called = model(ids, attention_mask=mask).logits[0, -1]
        generated = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        ).logits[0][0]
    apart = float((called - generated).abs().max() / called.std())
    return rows[0], rows[1], apart


for name in ("transformers", "torch"):
    print(name, version(name))
for family in ("Roberta", "XLMRoberta", "Camembert"):
    in_a_call, in_generate, apart = compared(family, "roberta")
    print(f"{family}: rows {in_a_call} in a call, {in_generate} in generate; "
          f"logits {apart:.2f} standard deviations apart")
    assert in_a_call == [2, 3, 4, 5, 6] and in_generate == [0, 1, 2, 3, 4]
    assert apart > 0.5
in_a_call, in_generate, apart = compared("Bert", "bert")
print(f"Bert: rows {in_a_call} in a call, {in_generate} in generate; {apart:.6f} apart")
assert in_a_call == in_generate == [0, 1, 2, 3, 4] and apart < 1e-5
PY
"$folder/venv/bin/python" "$folder/positions.py"
