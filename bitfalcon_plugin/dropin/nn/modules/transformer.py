"""Transformer modules by their YAML names.

Vaswani et al. 2017, arXiv:1706.03762; the encoder over the positions of a map: RT-DETR (Zhao et al. 2023,
arXiv:2304.08069, section 4.2); layer norm of maps: ConvNeXt (Liu et al. 2022, arXiv:2201.03545).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....models.modules.conv import Conv
from .stand_ins import unknown

__all__ = [
    "AIFI",
    "DeformableTransformerDecoder",
    "DeformableTransformerDecoderLayer",
    "LayerNorm2d",
    "MLP",
    "MLPBlock",
    "MSDeformAttn",
    "TransformerBlock",
    "TransformerEncoderLayer",
    "TransformerLayer",
]


class TransformerEncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, both residual and normalised: (B, N, c1) -> (B, N, c1)."""

    def __init__(
        self,
        c1: int,
        cm: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.0,
        act: nn.Module | None = None,
        normalize_before: bool = False,
    ):
        super().__init__()
        self.ma = nn.MultiheadAttention(c1, num_heads, dropout=dropout, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(c1, cm), nn.Linear(cm, c1)
        self.norm1, self.norm2 = nn.LayerNorm(c1), nn.LayerNorm(c1)
        self.dropout = nn.Dropout(dropout)
        self.act = nn.GELU() if act is None else act
        self.normalize_before = normalize_before

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos: Tensor | None = None,
    ) -> Tensor:
        """src (B, N, c1). pos: added to queries and keys."""
        masks = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask, "need_weights": False}

        def attend(x: Tensor) -> Tensor:
            query = x if pos is None else x + pos
            return self.dropout(self.ma(query, query, x, **masks)[0])

        def feed(x: Tensor) -> Tensor:
            return self.dropout(self.fc2(self.dropout(self.act(self.fc1(x)))))

        if self.normalize_before:
            src = src + attend(self.norm1(src))
            return src + feed(self.norm2(src))
        src = self.norm1(src + attend(src))
        return self.norm2(src + feed(src))


class AIFI(TransformerEncoderLayer):
    """A transformer layer over the positions of a map: (B, c1, H, W) -> (B, c1, H, W). c1 is a multiple of 4."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        height, width = x.shape[2:]
        place = self.build_2d_sincos_position_embedding(width, height, x.shape[1]).to(x)
        return super().forward(x.flatten(2).transpose(1, 2), pos=place).transpose(1, 2).unflatten(2, (height, width))

    @staticmethod
    def build_2d_sincos_position_embedding(
        w: int, h: int, embed_dim: int = 256, temperature: float = 10000.0
    ) -> Tensor:
        """Return sines and cosines of the columns and the rows (1, h * w, embed_dim), row-major."""
        if embed_dim % 4:
            raise ValueError(f"{embed_dim} channels: the positions of a map need a multiple of 4")
        count = embed_dim // 4
        speed = temperature ** -(torch.arange(count) / count)
        rows, columns = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
        angles = [part.flatten()[:, None] * speed for part in (columns, rows)]
        return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)[None]


class TransformerLayer(nn.Module):
    """Self-attention and two linear layers, both residual, without norms: (N, B, c) -> (N, B, c)."""

    def __init__(self, c: int, num_heads: int):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(c, c, bias=False) for _ in range(3))
        self.ma = nn.MultiheadAttention(c, num_heads)
        self.fc1, self.fc2 = nn.Linear(c, c, bias=False), nn.Linear(c, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ma(self.q(x), self.k(x), self.v(x), need_weights=False)[0]
        return x + self.fc2(self.fc1(x))


class TransformerBlock(nn.Module):
    """A learned embedding of positions, then layers over the positions of a map: (B, c1, H, W) -> (B, c2, H, W)."""

    def __init__(self, c1: int, c2: int, num_heads: int, num_layers: int):
        super().__init__()
        self.conv = Conv(c1, c2) if c1 != c2 else None
        self.linear = nn.Linear(c2, c2)
        self.tr = nn.Sequential(*(TransformerLayer(c2, num_heads) for _ in range(num_layers)))
        self.c2 = c2

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.conv is None else self.conv(x)
        tokens = x.flatten(2).permute(2, 0, 1)  # (H * W, B, c2)
        return self.tr(tokens + self.linear(tokens)).permute(1, 2, 0).reshape(x.shape)


class MLPBlock(nn.Module):
    """Two linear layers with an activation between them: (..., embedding_dim) -> (..., embedding_dim)."""

    def __init__(self, embedding_dim: int, mlp_dim: int, act: type[nn.Module] = nn.GELU):
        super().__init__()
        self.lin1, self.lin2, self.act = nn.Linear(embedding_dim, mlp_dim), nn.Linear(mlp_dim, embedding_dim), act()

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x)))


class MLP(nn.Module):
    """num_layers linear layers with activations between them: (..., input_dim) -> (..., output_dim)."""

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        act: type[nn.Module] = nn.ReLU,
        sigmoid: bool = False,
    ):
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.num_layers, self.sigmoid, self.act = num_layers, sigmoid, act()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        x = self.layers[-1](x)
        return x.sigmoid() if self.sigmoid else x


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each position: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, num_channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(num_channels)), nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


DECODER = "a part of a decoder with deformable attention"
DeformableTransformerDecoder = unknown("DeformableTransformerDecoder", DECODER, __name__)
DeformableTransformerDecoderLayer = unknown("DeformableTransformerDecoderLayer", DECODER, __name__)
MSDeformAttn = unknown("MSDeformAttn", DECODER, __name__)
