"""What each source that the code cites is called: data only.

One line for every arXiv number and DOI in the package, the kernels and the chapters, no other;
tests/test_zoo.py checks that, and that author and year agree wherever they are written out. The
year is that of the first version, with which an arXiv number starts. The author is the family name
of the first one, or the team that signs. Long titles lose their subtitle, or a part ("…").
"""

from typing import NamedTuple


class Paper(NamedTuple):
    year: int
    author: str
    title: str


_LINES = """
doi:10.1207/s15516709cog1402_1 | 1990 | Elman | Finding Structure in Time
doi:10.1162/neco.1991.3.1.79 | 1991 | Jacobs | Adaptive Mixtures of Local Experts
doi:10.1162/neco.1992.4.1.131 | 1992 | Schmidhuber | Learning to Control Fast-Weight Memories
doi:10.1162/neco.1997.9.8.1735 | 1997 | Hochreiter | Long Short-Term Memory
doi:10.1162/089976600300015015 | 2000 | Gers | Learning to Forget: Continual Prediction with LSTM
doi:10.57967/hf/1595 | 2023 | Poli | StripedHyena
arXiv:1211.5063 | 2012 | Pascanu | On the difficulty of training Recurrent Neural Networks
arXiv:1409.0473 | 2014 | Bahdanau | Neural Machine Translation by Jointly Learning to Align …
arXiv:1406.1078 | 2014 | Cho | Learning Phrase Representations using RNN Encoder-Decoder
arXiv:1410.5401 | 2014 | Graves | Neural Turing Machines
arXiv:1503.08895 | 2015 | Sukhbaatar | End-To-End Memory Networks
arXiv:1609.08144 | 2016 | Wu | Google's Neural Machine Translation System
arXiv:1611.08656 | 2016 | Liu | Attention-based Memory Selection Recurrent Network …
arXiv:1701.06538 | 2017 | Shazeer | Outrageously Large Neural Networks
arXiv:1706.03762 | 2017 | Vaswani | Attention Is All You Need
arXiv:1804.11188 | 2018 | Tallec | Can recurrent neural networks warp time?
arXiv:1805.02867 | 2018 | Milakov | Online normalizer calculation for softmax
arXiv:1907.05242 | 2019 | Lample | Large Memory Layers with Product Keys
arXiv:1910.07467 | 2019 | Zhang | Root Mean Square Layer Normalization
arXiv:1910.09890 | 2019 | Gu | Improving the Gating Mechanism of Recurrent Neural Networks
arXiv:1911.02150 | 2019 | Shazeer | Fast Transformer Decoding: One Write-Head is All You Need
arXiv:2002.04745 | 2020 | Xiong | On Layer Normalization in the Transformer Architecture
arXiv:2002.05202 | 2020 | Shazeer | GLU Variants Improve Transformer
arXiv:2004.05150 | 2020 | Beltagy | Longformer: The Long-Document Transformer
arXiv:2006.04768 | 2020 | Wang | Linformer: Self-Attention with Linear Complexity
arXiv:2006.16236 | 2020 | Katharopoulos | Transformers are RNNs
arXiv:2007.14062 | 2020 | Zaheer | Big Bird: Transformers for Longer Sequences
arXiv:2008.07669 | 2020 | Gu | HiPPO: Recurrent Memory with Optimal Polynomial Projections
arXiv:2009.14794 | 2020 | Choromanski | Rethinking Attention with Performers
arXiv:2101.03961 | 2021 | Fedus | Switch Transformers: Scaling to Trillion Parameter Models
arXiv:2102.11174 | 2021 | Schlag | Linear Transformers Are Secretly Fast Weight Programmers
arXiv:2103.02143 | 2021 | Peng | Random Feature Attention
arXiv:2104.09864 | 2021 | Su | RoFormer: Enhanced Transformer with Rotary Position Embedding
arXiv:2106.09685 | 2021 | Hu | LoRA: Low-Rank Adaptation of Large Language Models
arXiv:2108.12409 | 2021 | Press | Train Short, Test Long: Attention with Linear Biases
arXiv:2110.02488 | 2021 | Peng | ABC: Attention with Bounded-memory Control
arXiv:2111.00396 | 2021 | Gu | Efficiently Modeling Long Sequences with Structured State Spaces
arXiv:2112.05682 | 2021 | Rabe | Self-attention Does Not Need O(n²) Memory
arXiv:2202.08906 | 2022 | Zoph | ST-MoE: Designing Stable and Transferable Sparse Expert Models
arXiv:2202.09368 | 2022 | Zhou | Mixture-of-Experts with Expert Choice Routing
arXiv:2203.00555 | 2022 | Wang | DeepNet: Scaling Transformers to 1,000 Layers
arXiv:2203.14343 | 2022 | Gupta | Diagonal State Spaces are as Effective as Structured State Spaces
arXiv:2205.14135 | 2022 | Dao | FlashAttention
arXiv:2206.11893 | 2022 | Gu | … Parameterization and Initialization of Diagonal State Space Models
arXiv:2206.13947 | 2022 | Mehta | Long Range Language Modeling via Gated State Spaces
arXiv:2208.01066 | 2022 | Garg | What Can Transformers Learn In-Context? …
arXiv:2208.04933 | 2022 | Smith | Simplified State Space Layers for Sequence Modeling
arXiv:2209.10655 | 2022 | Ma | Mega: Moving Average Equipped Gated Attention
arXiv:2209.11895 | 2022 | Olsson | In-context Learning and Induction Heads
arXiv:2210.04243 | 2022 | Mao | Fine-Tuning Pre-trained Transformers into Decaying Fast Weights
arXiv:2210.10340 | 2022 | Qin | The Devil in Linear Transformer
arXiv:2211.15841 | 2022 | Gale | MegaBlocks: Efficient Sparse Training with Mixture-of-Experts
arXiv:2212.07677 | 2022 | von Oswald | Transformers learn in-context by gradient descent
arXiv:2212.10554 | 2022 | Sun | A Length-Extrapolatable Transformer
arXiv:2212.14052 | 2022 | Fu | Hungry Hungry Hippos
arXiv:2302.10866 | 2023 | Poli | Hyena Hierarchy: Towards Larger Convolutional Language Models
arXiv:2303.06349 | 2023 | Orvieto | Resurrecting Recurrent Neural Networks for Long Sequences
arXiv:2305.13048 | 2023 | Peng | RWKV: Reinventing RNNs for the Transformer Era
arXiv:2305.13245 | 2023 | Ainslie | GQA: Training Generalized Multi-Query Transformer Models
arXiv:2306.15595 | 2023 | Chen | Extending Context Window of … via Positional Interpolation
arXiv:2307.08621 | 2023 | Sun | Retentive Network
arXiv:2307.08691 | 2023 | Dao | FlashAttention-2
arXiv:2309.00071 | 2023 | Peng | YaRN: Efficient Context Window Extension of Large Language Models
arXiv:2309.12252 | 2023 | Lim | Parallelizing non-linear sequential models …
arXiv:2309.17453 | 2023 | Xiao | Efficient Streaming Language Models with Attention Sinks
arXiv:2310.01889 | 2023 | Liu | Ring Attention with Blockwise Transformers …
arXiv:2310.18780 | 2023 | Massaroli | Laughing Hyena Distillery
arXiv:2311.01927 | 2023 | Katsch | GateLoop
arXiv:2312.00752 | 2023 | Gu | Mamba: Linear-Time Sequence Modeling with Selective State Spaces
arXiv:2312.04927 | 2023 | Arora | Zoology
arXiv:2312.06635 | 2023 | Yang | Gated Linear Attention Transformers …
arXiv:2401.04088 | 2024 | Jiang | Mixtral of Experts
arXiv:2401.04658 | 2024 | Qin | Lightning Attention-2
arXiv:2401.06066 | 2024 | Dai | DeepSeekMoE
arXiv:2402.01032 | 2024 | Jelassi | Repeat After Me
arXiv:2402.13753 | 2024 | Ding | LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens
arXiv:2402.18668 | 2024 | Arora | Simple linear attention language models …
arXiv:2402.19427 | 2024 | De | Griffin: Mixing Gated Linear Recurrences with Local Attention
arXiv:2403.17844 | 2024 | Poli | Mechanistic Design and Scaling of Hybrid Architectures
arXiv:2403.19887 | 2024 | Lieber | Jamba: A Hybrid Transformer-Mamba Language Model
arXiv:2404.05892 | 2024 | Peng | Eagle and Finch
arXiv:2404.07839 | 2024 | Botev | RecurrentGemma
arXiv:2404.07904 | 2024 | Qin | HGRN2: Gated Linear RNNs with State Expansion
arXiv:2404.08801 | 2024 | Ma | Megalodon
arXiv:2404.08819 | 2024 | Merrill | The Illusion of State in State-Space Models
arXiv:2405.04434 | 2024 | DeepSeek-AI (Liu) | DeepSeek-V2
arXiv:2405.04517 | 2024 | Beck | xLSTM: Extended Long Short-Term Memory
arXiv:2405.05254 | 2024 | Sun | You Only Cache Once
arXiv:2405.16712 | 2024 | Glorioso | Zamba: A Compact 7B SSM Hybrid Model
arXiv:2405.21060 | 2024 | Dao | Transformers are SSMs: Structured State Space Duality
arXiv:2406.06484 | 2024 | Yang | Parallelizing Linear Transformers with the Delta Rule …
arXiv:2406.07522 | 2024 | Ren | Samba: Simple Hybrid State Space Models
arXiv:2407.04153 | 2024 | He | Mixture of A Million Experts
arXiv:2407.04620 | 2024 | Sun | Learning to (Learn at Test Time): RNNs with Expressive Hidden States
arXiv:2407.08608 | 2024 | Shah | FlashAttention-3
arXiv:2407.21783 | 2024 | Grattafiori | The Llama 3 Herd of Models
arXiv:2408.15664 | 2024 | Wang | Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts
arXiv:2409.07146 | 2024 | Zhang | Gated Slot Attention for Efficient Linear-Time Sequence Modeling
arXiv:2410.01201 | 2024 | Feng | Were RNNs All We Needed?
arXiv:2410.05258 | 2024 | Ye | Differential Transformer
arXiv:2410.05355 | 2024 | Zuo | Falcon Mamba: The First Competitive Attention-free 7B Language Model
arXiv:2410.10989 | 2024 | Hsu | Liger Kernel: Efficient Triton Kernels for LLM Training
arXiv:2410.10629 | 2024 | Xie | SANA
arXiv:2411.12537 | 2024 | Grazzi | … State-Tracking in Linear RNNs Through Negative Eigenvalues
arXiv:2411.13676 | 2024 | Dong | Hymba: A Hybrid-head Architecture for Small Language Models
arXiv:2411.15242 | 2024 | Glorioso | The Zamba2 Suite: Technical Report
arXiv:2412.05496 | 2024 | Dong | Flex Attention
arXiv:2412.06464 | 2024 | Yang | Gated Delta Networks: Improving Mamba2 with Delta Rule
arXiv:2412.19437 | 2024 | DeepSeek-AI (Liu) | DeepSeek-V3 Technical Report
arXiv:2501.00663 | 2025 | Behrouz | Titans: Learning to Memorize at Test Time
arXiv:2501.08313 | 2025 | MiniMax (Li) | MiniMax-01
arXiv:2501.12352 | 2025 | Wang | Test-time regression: … sequence models with associative memory
arXiv:2502.10297 | 2025 | Siems | DeltaProduct
arXiv:2503.02130 | 2025 | Lin | Forgetting Transformer: Softmax Attention with a Forget Gate
arXiv:2503.13427 | 2025 | Beck | xLSTM 7B: A Recurrent LLM for Fast and Efficient Inference
arXiv:2503.14456 | 2025 | Peng | RWKV-7 "Goose" with Expressive Dynamic State Evolution
arXiv:2504.05298 | 2025 | Dalal | One-Minute Video Generation with Test-Time Training
arXiv:2505.06708 | 2025 | Qiu | Gated Attention for Large Language Models
arXiv:2505.09388 | 2025 | Yang | Qwen3 Technical Report
arXiv:2505.16381 | 2025 | Yang | PaTH Attention: … Accumulating Householder Transformations
arXiv:2505.23884 | 2025 | Zhang | Test-Time Training Done Right
arXiv:2506.02475 | 2025 | Hu | Comba: Improving Bilinear RNNs with Closed-loop Control
arXiv:2506.04761 | 2025 | Guo | Log-Linear Attention
arXiv:2506.05233 | 2025 | von Oswald | MesaNet: … Locally Optimal Test-Time Training
arXiv:2510.26692 | 2025 | Kimi Team | Kimi Linear: An Expressive, Efficient Attention Architecture
arXiv:2602.21204 | 2026 | Liu | Test-Time Training with KV Binding Is Secretly Linear Attention
arXiv:2603.15569 | 2026 | Lahoti | Mamba-3: Improved Sequence Modeling using State Space Principles
arXiv:2604.03444 | 2026 | Merrill | Olmo Hybrid: From Theory to Practice and Back
arXiv:2605.22791 | 2026 | Hatamizadeh | Gated DeltaNet-2: Decoupling Erase and Write …
""".strip()


def _read(line: str) -> tuple[str, Paper]:
    number, year, author, title = line.split(" | ")
    return number, Paper(int(year), author, title)


PAPERS: dict[str, Paper] = dict(map(_read, _LINES.splitlines()))
