"""Text encoders and encoder-decoder models."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entry import (
    TOKENS,
    VOCABULARY,
    Entry,
    Inputs,
    both,
    decoder_ids,
    hf,
    ids,
    masked_ids,
)

# BERT-base's widths are the default of most configurations.
_SHORT: dict[str, Any] = {"vocab_size": VOCABULARY, "num_hidden_layers": 2}
_SEQ2SEQ: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "use_cache": False,
}
_T5: dict[str, Any] = {"vocab_size": VOCABULARY, "num_layers": 2, "use_cache": False}
_BOTH = both(masked_ids(), decoder_ids())


def _boxes(_: nn.Module) -> Inputs:
    """Corners of a box for each token, on a page of 1000 by 1000."""
    corner = torch.randint(0, 500, (1, TOKENS, 2))
    return {"bbox": torch.cat([corner, corner + torch.randint(1, 500, (1, TOKENS, 2))], -1)}


TEXT: tuple[Entry, ...] = (
    hf("bert", "BertModel", masked_ids(), **_SHORT),
    hf("bert-no-mask", "BertForMaskedLM", ids(), **_SHORT),
    hf(
        "distilbert",
        "DistilBertForSequenceClassification",
        masked_ids(),
        vocab_size=VOCABULARY,
        n_layers=2,
    ),
    hf("roberta", "RobertaModel", masked_ids(), **_SHORT),
    hf(
        "albert",
        "AlbertModel",
        masked_ids(),
        **_SHORT,
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
    ),
    hf("mpnet", "MPNetModel", masked_ids(), **_SHORT),
    hf(
        "deberta",
        "DebertaModel",
        masked_ids(),
        **_SHORT,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        max_relative_positions=-1,
    ),
    hf(
        "deberta-v2",
        "DebertaV2Model",
        masked_ids(),
        **_SHORT,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
    ),
    hf(
        "modernbert",
        "ModernBertModel",
        masked_ids(),
        **_SHORT,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    hf("convbert", "ConvBertModel", masked_ids(), **_SHORT),
    hf("mobilebert", "MobileBertModel", masked_ids(), **_SHORT),
    hf(
        "funnel",
        "FunnelModel",
        masked_ids(),
        vocab_size=VOCABULARY,
        block_sizes=[1, 1],
        num_decoder_layers=1,
    ),
    hf("fnet", "FNetModel", ids(), **_SHORT),
    hf(
        "longformer",
        "LongformerModel",
        ids(256),  # a mask may hold 2, for tokens that see all: how many would follow from data
        **_SHORT,
        attention_window=[64, 64],
        pad_token_id=1,
    ),
    hf(
        "xlnet",
        "XLNetModel",
        masked_ids(),
        vocab_size=VOCABULARY,
        n_layer=2,
        d_model=768,
        n_head=12,
        d_inner=3072,
        use_mems_eval=False,
    ),
    hf("xlm", "XLMModel", masked_ids(), vocab_size=VOCABULARY, n_layers=2, emb_dim=768, n_heads=12),
    hf(
        "clip-text",
        "CLIPTextModel",
        masked_ids(77),
        **_SHORT,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    hf("t5-encoder", "T5EncoderModel", masked_ids(), **_T5),
    hf("t5", "T5Model", _BOTH, **_T5),
    hf("longt5", "LongT5Model", _BOTH, **_T5),
    hf("bart", "BartModel", _BOTH, **_SEQ2SEQ),
    hf("pegasus", "PegasusModel", _BOTH, **_SEQ2SEQ),
)
