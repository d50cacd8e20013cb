"""Whole models: which mixers in which order, and the sizes they were published with.

Sizes have the names of the layout's parameters (`layouts.py`); total counts all parameters, active
those that one token uses.
"""

from seqlab.zoo import layouts
from seqlab.zoo.row import Recipe

MINI = {"vocab": 65536, "d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8}
MINI |= {"d_ff": 14336, "d_state": 16, "d_conv": 4, "expand": 2, "n_experts": 16, "top_k": 2}
LARGE = MINI | {"d_model": 8192, "n_layers": 72, "n_heads": 64, "d_ff": 24576}
GRIFFIN_7B = {"vocab": 256000, "d_model": 4096, "n_layers": 32, "n_heads": 32}
GRIFFIN_7B |= {"d_ff": 12288, "lru_width": 5632}

RECIPES: list[Recipe] = [
    Recipe(
        name="Transformer 2017",
        layout="all attention, ReLU MLP, LayerNorm after each sum, sinusoids added at the input",
        build=layouts.transformer_2017,
        published={
            "base": {
                "vocab": 37000,
                "d_model": 512,
                "n_layers": 6,
                "n_heads": 8,
                "d_ff": 2048,
                "total": 65_000_000,
            },
            "big": {
                "vocab": 37000,
                "d_model": 1024,
                "n_layers": 6,
                "n_heads": 16,
                "d_ff": 4096,
                "total": 213_000_000,
            },
        },
        paper="arXiv:1706.03762",
        year=2017,
        chapter=1,
        source="the paper's table 3; its totals include an encoder of as many layers",
        oracle="the sinusoids of section 3.5; the count of both halves",
    ),
    Recipe(
        name="Transformer 2026",
        layout="all attention with grouped queries and RoPE, SwiGLU, RMSNorm before each part",
        build=layouts.transformer_2026,
        published={
            "Llama 3.1 8B": {
                "vocab": 128256,
                "d_model": 4096,
                "n_layers": 32,
                "n_heads": 32,
                "n_kv_heads": 8,
                "d_ff": 14336,
                "qk_norm": False,
                "rope_base": 500000.0,
                "total": 8_030_261_248,
            },
            "Llama 3.1 70B": {
                "vocab": 128256,
                "d_model": 8192,
                "n_layers": 80,
                "n_heads": 64,
                "n_kv_heads": 8,
                "d_ff": 28672,
                "qk_norm": False,
                "rope_base": 500000.0,
                "total": 70_553_706_496,
            },
            "Qwen3 8B": {
                "vocab": 151936,
                "d_model": 4096,
                "n_layers": 36,
                "n_heads": 32,
                "n_kv_heads": 8,
                "d_head": 128,
                "d_ff": 12288,
                "total": 8_190_735_360,
            },
        },
        paper="arXiv:2505.09388",
        year=2025,
        chapter=1,
        source="config.json of Llama-3.1-8B, Llama-3.1-70B and Qwen3-8B; totals: their safetensors",
        oracle="transformers: LlamaForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="Falcon Mamba",
        layout="all Mamba, with RMS norms on Δ, B and C; no other channel mixer",
        build=layouts.falcon_mamba,
        published={
            "7B": {
                "vocab": 65024,
                "d_model": 4096,
                "n_layers": 64,
                "d_state": 16,
                "d_conv": 4,
                "expand": 2,
                "total": 7_270_000_000,
            }
        },
        paper="arXiv:2410.05355",
        year=2024,
        chapter=7,
        source="model card of tiiuae/falcon-mamba-7b; vocab: not seen, the count agrees",
        oracle="transformers: FalconMambaForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="RWKV World3",
        layout="all RWKV-7, each with the channel mix; LayerNorm, also behind the embedding",
        build=layouts.rwkv7,
        published={
            "0.1B": {
                "vocab": 65536,
                "d_model": 768,
                "n_layers": 12,
                "n_heads": 12,
                "total": 190_000_000,
            },
            "2.9B": {
                "vocab": 65536,
                "d_model": 2560,
                "n_layers": 32,
                "n_heads": 40,
                "total": 2_900_000_000,
            },
        },
        paper="arXiv:2503.14456",
        year=2025,
        chapter=9,
        source="the paper; its abstract has the totals, rounded. Heads are 64 wide",
        oracle="the rwkv package's time mix, layer by layer",
    ),
    Recipe(
        name="xLSTM",
        layout="all mLSTM with SwiGLU; no sLSTM",
        build=layouts.xlstm,
        published={
            "7B": {
                "vocab": 50304,
                "d_model": 4096,
                "n_layers": 32,
                "n_heads": 8,
                "d_ff": 10944,
            }
        },
        paper="arXiv:2503.13427",
        year=2025,
        chapter=10,
        source="config of NX-AI/xLSTM-7b: d_ff is 2.667 · 4096, rounded up to a multiple of 64",
        oracle="transformers: xLSTMForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="Codestral Mamba",
        layout="all Mamba-2, B and C shared in 8 groups of heads; no other channel mixer",
        build=layouts.codestral_mamba,
        published={
            "7B": {
                "vocab": 32768,
                "d_model": 4096,
                "n_layers": 64,
                "n_heads": 128,
                "d_state": 128,
                "n_groups": 8,
                "d_conv": 4,
                "expand": 2,
                "total": 7_285_403_648,
            }
        },
        paper="card:mistralai/Mamba-Codestral-7B-v0.1",
        method="arXiv:2405.21060",
        year=2024,
        chapter=7,
        source="the defaults of transformers' Mamba2Config; total: the model's announcement",
        oracle="transformers: Mamba2ForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="Switch Transformer",
        layout="all attention; experts of one ReLU MLP, in every layer or every other, top-1",
        build=layouts.switch,
        published={
            "C": {
                "vocab": 32128,
                "d_model": 2080,
                "n_layers": 15,
                "n_heads": 30,
                "d_head": 64,
                "d_ff": 6144,
                "n_experts": 2048,
                "total": 1_571_000_000_000,
            }
        },
        paper="arXiv:2101.03961",
        year=2021,
        chapter=17,
        source=(
            "the authors' T5X preset switch_c; its total counts an encoder of as many layers, and "
            "is quoted from the paper's table 9"
        ),
        oracle="the count of both halves",
    ),
    Recipe(
        name="Mixtral",
        layout="all attention with grouped queries and RoPE; 8 experts in every layer, top-2",
        build=layouts.mixtral,
        published={
            "8x7B": {
                "vocab": 32000,
                "d_model": 4096,
                "n_layers": 32,
                "n_heads": 32,
                "n_kv_heads": 8,
                "d_ff": 14336,
                "n_experts": 8,
                "top_k": 2,
                "total": 47_000_000_000,
                "active": 13_000_000_000,
            },
            "8x22B": {
                "vocab": 32768,
                "d_model": 6144,
                "n_layers": 56,
                "n_heads": 48,
                "n_kv_heads": 8,
                "d_ff": 16384,
                "n_experts": 8,
                "top_k": 2,
                "total": 141_000_000_000,
                "active": 39_000_000_000,
            },
        },
        paper="arXiv:2401.04088",
        year=2024,
        chapter=17,
        source=(
            "the paper's table 1 and its section 2.1; 8x22B: totals of its announcement, sizes "
            "not seen, the count agrees"
        ),
        oracle="transformers: MixtralForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="DBRX",
        layout="all attention with grouped queries and RoPE; 16 experts in every layer, top-4",
        build=layouts.dbrx,
        published={
            "132B": {
                "vocab": 100352,
                "d_model": 6144,
                "n_layers": 40,
                "n_heads": 48,
                "n_kv_heads": 8,
                "d_ff": 10752,
                "n_experts": 16,
                "top_k": 4,
                "total": 132_000_000_000,
                "active": 36_000_000_000,
            }
        },
        paper="card:databricks/dbrx-base",
        method="arXiv:2211.15841",
        year=2024,
        chapter=17,
        source="model card of databricks/dbrx-base; widths: not seen, the count agrees",
        oracle="the authors' layout, read off the model; the count",
    ),
    Recipe(
        name="Qwen3 MoE",
        layout=(
            "all attention with grouped queries, RoPE and QK norm; 128 small experts in every "
            "layer, top-8, none shared"
        ),
        build=layouts.qwen3_moe,
        published={
            "30B-A3B": {
                "vocab": 151936,
                "d_model": 2048,
                "n_layers": 48,
                "n_heads": 32,
                "n_kv_heads": 4,
                "d_head": 128,
                "d_ff": 768,
                "n_experts": 128,
                "top_k": 8,
                "total": 30_500_000_000,
                "active": 3_300_000_000,
            },
            "235B-A22B": {
                "vocab": 151936,
                "d_model": 4096,
                "n_layers": 94,
                "n_heads": 64,
                "n_kv_heads": 4,
                "d_head": 128,
                "d_ff": 1536,
                "n_experts": 128,
                "top_k": 8,
                "total": 235_000_000_000,
                "active": 22_000_000_000,
            },
        },
        paper="arXiv:2505.09388",
        year=2025,
        chapter=17,
        source=(
            "the paper's table 2; 30B-A3B: its config.json; 235B-A22B: widths not seen, the count "
            "agrees; totals: model cards"
        ),
        oracle="the authors' layout, read off the model; the count",
    ),
    Recipe(
        name="DeepSeek-V3",
        layout=(
            "all latent attention; 3 dense layers, then 256 small experts, top-8 within 4 of "
            "8 groups, and 1 shared"
        ),
        build=layouts.deepseek_v3,
        published={
            "V3": {
                "vocab": 129280,
                "d_model": 7168,
                "n_layers": 61,
                "n_dense": 3,
                "n_heads": 128,
                "q_rank": 1536,
                "kv_rank": 512,
                "d_nope": 128,
                "d_rope": 64,
                "d_v": 128,
                "d_ff": 18432,
                "d_expert": 2048,
                "n_experts": 256,
                "top_k": 8,
                "n_shared": 1,
                "n_groups": 8,
                "top_groups": 4,
                "total": 671_000_000_000,
                "active": 37_000_000_000,
            }
        },
        paper="arXiv:2412.19437",
        year=2024,
        chapter=17,
        source="the paper's section 4.2; d_ff: the default of transformers' DeepseekV3Config",
        oracle="transformers: DeepseekV3ForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="Jamba",
        layout=(
            "7 Mamba to 1 attention without positions, at index 4 of 8; 16 experts in every "
            "2nd layer, top-2"
        ),
        build=layouts.jamba,
        published={
            "v0.1": MINI | {"total": 52_000_000_000, "active": 12_000_000_000},
            "1.5 Large": LARGE | {"total": 398_000_000_000, "active": 94_000_000_000},
        },
        paper="arXiv:2403.19887",
        year=2024,
        chapter=18,
        source=(
            "v0.1: transformers' JambaConfig; totals: model cards; Large: sizes not seen, the "
            "count agrees"
        ),
        oracle="transformers: JambaForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="Zamba",
        layout=(
            "all Mamba; before layers 2, 7 and every 6th after, one shared attention and MLP on "
            "[stream ; embedding], added to the layer's input"
        ),
        build=layouts.zamba,
        published={
            "7B": {
                "vocab": 32000,
                "d_model": 3712,
                "n_layers": 76,
                "n_heads": 16,
                "d_ff": 14848,
                "d_state": 16,
                "d_conv": 4,
                "expand": 2,
                "total": 7_000_000_000,
            }
        },
        paper="arXiv:2405.16712",
        year=2024,
        chapter=18,
        source="config.json of Zyphra/Zamba-7B-v1; total: the paper's title",
        oracle="transformers: ZambaForCausalLM with one Mamba head",
    ),
    Recipe(
        name="Zamba2",
        layout=(
            "all Mamba-2; before 9 of 54 layers (6, 12, .. 42, then 47 and 51), one of two "
            "shared transformers in turn, with a low-rank change of its MLP at each"
        ),
        build=layouts.zamba2,
        published={
            "2.7B": {
                "vocab": 32000,
                "d_model": 2560,
                "n_layers": 54,
                "shared_at": (6, 12, 18, 24, 30, 36, 42, 47, 51),
                "n_shared": 2,
                "rank": 128,
                "n_heads": 32,
                "d_ff": 10240,
                "ssm_heads": 80,
                "d_state": 64,
                "d_conv": 4,
                "expand": 2,
                "total": 2_700_000_000,
            }
        },
        paper="arXiv:2411.15242",
        year=2024,
        chapter=18,
        source="config.json of Zyphra/Zamba2-2.7B and of the authors' repository Zyphra/Zamba2",
        oracle="transformers: Zamba2ForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="Samba",
        layout="Mamba and sliding-window attention in turn, a SwiGLU after each",
        build=layouts.samba,
        published={
            "421M": {
                "vocab": 32000,
                "d_model": 1536,
                "n_layers": 12,
                "n_heads": 12,
                "d_ff": 4096,
                "window": 2048,
                "total": 421_000_000,
            },
            "1.3B": {
                "vocab": 32000,
                "d_model": 2304,
                "n_layers": 18,
                "n_heads": 18,
                "d_ff": 6144,
                "window": 2048,
                "total": 1_300_000_000,
            },
        },
        paper="arXiv:2406.07522",
        year=2024,
        chapter=18,
        source=(
            "lit_gpt/config.py of the authors' repository microsoft/Samba; totals: the names there"
        ),
        oracle="the authors' layout, read off the model; the count",
    ),
    Recipe(
        name="Hymba",
        layout=(
            "attention and Mamba side by side in every layer, each with a norm, averaged; a "
            "window in all but 3 layers"
        ),
        build=layouts.hymba,
        published={
            "1.5B": {
                "vocab": 32001,
                "d_model": 1600,
                "n_layers": 32,
                "n_heads": 25,
                "n_kv_heads": 5,
                "d_ff": 5504,
                "window": 1024,
                "d_state": 16,
                "total": 1_520_000_000,
            }
        },
        paper="arXiv:2411.13676",
        year=2024,
        chapter=18,
        source=(
            "model card of nvidia/Hymba-1.5B-Base; vocab, n_kv_heads and window: quoted from "
            "its config, which was not seen"
        ),
        oracle="the paper's layout, read off the model",
    ),
    Recipe(
        name="Bamba",
        layout=(
            "29 Mamba-2 and 3 attention layers that rotate half of each head, a SwiGLU after each"
        ),
        build=layouts.bamba,
        published={
            "9B": {
                "vocab": 128256,
                "d_model": 4096,
                "n_layers": 32,
                "attention_at": (9, 18, 27),
                "n_heads": 32,
                "n_kv_heads": 8,
                "d_ff": 14336,
                "ssm_heads": 128,
                "d_state": 128,
                "d_conv": 4,
                "expand": 2,
                "total": 9_780_000_000,
            }
        },
        paper="card:ibm-fms/Bamba-9B",
        method="arXiv:2405.21060",
        year=2024,
        chapter=18,
        source="model card and config.json of ibm-fms/Bamba-9B",
        oracle="transformers: BambaForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="Griffin",
        layout="2 RG-LRU to 1 local attention with one key head, GEGLU after each",
        build=layouts.griffin,
        published={"7B": GRIFFIN_7B | {"window": 1024, "total": 7_000_000_000}},
        paper="arXiv:2402.19427",
        year=2024,
        chapter=11,
        source=(
            "GRIFFIN_PAPER_7B in google-deepmind/recurrentgemma; total: its name, which "
            "leaves out the embedding"
        ),
        oracle="the authors' layout, read off the model; the count",
    ),
    Recipe(
        name="Hawk",
        layout="all RG-LRU, GEGLU after each",
        build=layouts.hawk,
        published={"7B": GRIFFIN_7B | {"total": 7_000_000_000}},
        paper="arXiv:2402.19427",
        year=2024,
        chapter=11,
        source=(
            "HAWK_PAPER_7B in google-deepmind/recurrentgemma; total: its name, which leaves "
            "out the embedding"
        ),
        oracle="the authors' layout, read off the model; the count",
    ),
    Recipe(
        name="RecurrentGemma",
        layout="Griffin's 2 RG-LRU to 1 local attention, embedding times √D, capped logits",
        build=layouts.recurrent_gemma,
        published={
            "2B": {
                "vocab": 256000,
                "d_model": 2560,
                "n_layers": 26,
                "n_heads": 10,
                "d_ff": 7680,
                "lru_width": 2560,
                "window": 2048,
                "total": 2_700_000_000,
            },
            "9B": {
                "vocab": 256000,
                "d_model": 4096,
                "n_layers": 38,
                "n_heads": 16,
                "d_ff": 12288,
                "lru_width": 4096,
                "window": 2048,
                "total": 8_600_000_000,
            },
        },
        paper="arXiv:2404.07839",
        year=2024,
        chapter=11,
        source="the presets of google-deepmind/recurrentgemma; totals: not seen, the count agrees",
        oracle="transformers: RecurrentGemmaForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="MiniMax-01",
        layout=(
            "7 lightning attention to 1 softmax attention, a post-norm stream; 32 experts in "
            "every layer, top-2"
        ),
        build=layouts.minimax,
        published={
            "Text-01": {
                "vocab": 200064,
                "d_model": 6144,
                "n_layers": 80,
                "n_heads": 64,
                "n_kv_heads": 8,
                "d_head": 128,
                "d_rotary": 64,
                "d_ff": 9216,
                "n_experts": 32,
                "top_k": 2,
                "total": 456_000_000_000,
                "active": 45_900_000_000,
            }
        },
        paper="arXiv:2501.08313",
        year=2025,
        chapter=18,
        source="model card of MiniMax-Text-01; n_kv_heads: not seen, the count agrees",
        oracle="transformers: MiniMaxForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="Qwen3-Next",
        layout=(
            "3 Gated DeltaNet to 1 gated attention; 512 small experts in every layer, top-10, "
            "and 1 shared"
        ),
        build=layouts.qwen3_next,
        published={
            "80B-A3B": {
                "vocab": 151936,
                "d_model": 2048,
                "n_layers": 48,
                "n_heads": 16,
                "n_kv_heads": 2,
                "d_head": 256,
                "delta_heads": 32,
                "delta_k_heads": 16,
                "d_key": 128,
                "d_value": 128,
                "d_conv": 4,
                "d_ff": 512,
                "n_experts": 512,
                "top_k": 10,
                "total": 80_000_000_000,
                "active": 3_000_000_000,
            }
        },
        paper="card:Qwen/Qwen3-Next-80B-A3B-Instruct",
        method="arXiv:2412.06464",
        year=2025,
        chapter=18,
        source="the defaults of transformers' Qwen3NextConfig; totals: the model card",
        oracle="transformers: Qwen3NextForCausalLM, through seqlab.hub",
    ),
    Recipe(
        name="StripedHyena",
        layout="Hyena and attention with grouped queries in turn, a SwiGLU after each",
        build=layouts.stripedhyena,
        published={
            "7B": {
                "vocab": 32000,
                "d_model": 4096,
                "n_layers": 32,
                "n_heads": 32,
                "n_kv_heads": 8,
                "d_ff": 14336,
                "l_max": 32768,
                "total": 7_650_000_000,
            }
        },
        paper="doi:10.57967/hf/1595",
        year=2023,
        chapter=12,
        source=(
            "config.json of togethercomputer/StripedHyena-Nous-7B; total: half the bytes of "
            "its safetensors"
        ),
        oracle="the authors' layout, read off the model; the count",
    ),
    Recipe(
        name="YOCO",
        layout=(
            "half the layers gated retention, then one cache of keys and values, then layers "
            "that only query it"
        ),
        build=layouts.yoco,
        published={
            "3B": {"d_model": 3072, "n_layers": 26, "n_heads": 24, "n_kv_heads": 8, "d_ff": 8192},
        },
        paper="arXiv:2405.05254",
        year=2024,
        chapter=16,
        source=(
            "yoco_3b in the authors' repository microsoft/unilm, which leaves the vocabulary "
            "to the tokenizer"
        ),
        oracle="attention in one matrix over the stream that enters the cache; the state's size",
    ),
    Recipe(
        name="2027 stack",
        layout=(
            "3 Mamba-2 to 1 attention within 1K tokens; many small experts in every layer, "
            "and 1 shared; what shipped by 2026 keeps global or sparse global attention beside "
            "the recurrence"
        ),
        build=layouts.stack_2027,
        published={"sketch": {"window": 1024}},
        paper="",
        method="arXiv:2401.06066",
        year=2026,
        chapter=28,
        source="no model: what surveys expect (a state space, a 1K window, fine-grained experts)",
        oracle="the layout, read off the model",
    ),
]
