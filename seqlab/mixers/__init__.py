"""Sequence mixers, one architecture a file: (x, state) -> (y, state). `seqlab zoo` lists them."""

from seqlab.mixers.abc import ABC
from seqlab.mixers.amsrn import AMSRN
from seqlab.mixers.attention import Attention
from seqlab.mixers.based import BaseConv, Based
from seqlab.mixers.comba import Comba
from seqlab.mixers.deltanet import DeltaNet
from seqlab.mixers.deltaproduct import DeltaProduct
from seqlab.mixers.dfw import DFW
from seqlab.mixers.differential import Differential
from seqlab.mixers.dss import DSS
from seqlab.mixers.elman import Elman
from seqlab.mixers.forgetting import ForgettingAttention
from seqlab.mixers.gated_deltanet import GatedDeltaNet
from seqlab.mixers.gated_deltanet2 import GatedDeltaNet2
from seqlab.mixers.gated_retention import GatedRetention
from seqlab.mixers.gated_rfa import GatedRFA
from seqlab.mixers.gateloop import GateLoop
from seqlab.mixers.gla import GLA
from seqlab.mixers.gru import GRU
from seqlab.mixers.gsa import GSA
from seqlab.mixers.gss import GSS
from seqlab.mixers.h3 import H3
from seqlab.mixers.hgrn2 import HGRN2
from seqlab.mixers.hyena import Hyena
from seqlab.mixers.kda import KDA
from seqlab.mixers.lightning import LightningAttention
from seqlab.mixers.linear_attention import LinearAttention
from seqlab.mixers.linformer import Linformer
from seqlab.mixers.log_linear import LogLinearAttention
from seqlab.mixers.lru import LRU
from seqlab.mixers.lstm import LSTM
from seqlab.mixers.mamba import Mamba
from seqlab.mixers.mamba2 import Mamba2
from seqlab.mixers.mamba3 import Mamba3
from seqlab.mixers.mega import MEGA
from seqlab.mixers.megalodon import CEMA
from seqlab.mixers.memory_network import MemoryNetwork
from seqlab.mixers.mesanet import MesaNet
from seqlab.mixers.mla import MLA
from seqlab.mixers.mlstm import MLSTM
from seqlab.mixers.mlstm_block import MLSTMBlock
from seqlab.mixers.ntm import NTM
from seqlab.mixers.path import PaTH
from seqlab.mixers.retnet import RetNet
from seqlab.mixers.rglru import RGLRU
from seqlab.mixers.rwkv4 import RWKV4
from seqlab.mixers.rwkv5 import RWKV5
from seqlab.mixers.rwkv6 import RWKV6
from seqlab.mixers.rwkv7 import RWKV7
from seqlab.mixers.s4 import S4
from seqlab.mixers.s4d import S4D
from seqlab.mixers.s5 import S5
from seqlab.mixers.slstm import sLSTM
from seqlab.mixers.streaming import StreamingLLM
from seqlab.mixers.titans import Titans
from seqlab.mixers.titans_mag import MemoryAsGate
from seqlab.mixers.ttt_linear import TTTLinear
from seqlab.mixers.ttt_mlp import TTTMLP

__all__ = [
    "ABC",
    "AMSRN",
    "CEMA",
    "DFW",
    "DSS",
    "GLA",
    "GRU",
    "GSA",
    "GSS",
    "H3",
    "HGRN2",
    "KDA",
    "LRU",
    "LSTM",
    "MEGA",
    "MLA",
    "MLSTM",
    "NTM",
    "RGLRU",
    "RWKV4",
    "RWKV5",
    "RWKV6",
    "RWKV7",
    "S4",
    "S4D",
    "S5",
    "TTTMLP",
    "Attention",
    "BaseConv",
    "Based",
    "Comba",
    "DeltaNet",
    "DeltaProduct",
    "Differential",
    "Elman",
    "ForgettingAttention",
    "GateLoop",
    "GatedDeltaNet",
    "GatedDeltaNet2",
    "GatedRFA",
    "GatedRetention",
    "Hyena",
    "LightningAttention",
    "LinearAttention",
    "Linformer",
    "LogLinearAttention",
    "MLSTMBlock",
    "Mamba",
    "Mamba2",
    "Mamba3",
    "MemoryAsGate",
    "MemoryNetwork",
    "MesaNet",
    "PaTH",
    "RetNet",
    "StreamingLLM",
    "TTTLinear",
    "Titans",
    "sLSTM",
]
