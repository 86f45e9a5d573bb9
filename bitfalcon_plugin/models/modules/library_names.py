"""The classes of torch.nn and torchvision.ops that a graph may name: fixed lists, so that a name imports nothing.

A class that the installed version lacks is unknown. Lazy classes, whose weights have no shape before the first image,
are left out: a checkpoint could not be compared with them.
"""

from __future__ import annotations

from importlib import import_module

ACTIVATIONS = """
    CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid LogSoftmax Mish PReLU
    RReLU ReLU ReLU6 SELU SiLU Sigmoid Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh Tanhshrink
    Threshold
""".split()
OTHERS = """
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveLogSoftmaxWithLoss AdaptiveMaxPool1d
    AdaptiveMaxPool2d AdaptiveMaxPool3d AlphaDropout AvgPool1d AvgPool2d AvgPool3d BCELoss BCEWithLogitsLoss
    BatchNorm1d BatchNorm2d BatchNorm3d Bilinear CTCLoss ChannelShuffle CircularPad1d CircularPad2d CircularPad3d
    ConstantPad1d ConstantPad2d ConstantPad3d Container Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d
    ConvTranspose3d CosineEmbeddingLoss CosineSimilarity CrossEntropyLoss CrossMapLRN2d DataParallel Dropout
    Dropout1d Dropout2d Dropout3d Embedding EmbeddingBag FeatureAlphaDropout Flatten Fold FractionalMaxPool2d
    FractionalMaxPool3d GRU GRUCell GaussianNLLLoss GroupNorm HingeEmbeddingLoss HuberLoss InstanceNorm1d
    InstanceNorm2d InstanceNorm3d KLDivLoss L1Loss LPPool1d LPPool2d LPPool3d LSTM LSTMCell LayerNorm Linear
    LinearCrossEntropyLoss LocalResponseNorm MSELoss MarginRankingLoss MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d
    MaxUnpool2d MaxUnpool3d Module ModuleDict ModuleList MultiLabelMarginLoss MultiLabelSoftMarginLoss
    MultiMarginLoss MultiheadAttention NLLLoss NLLLoss2d PairwiseDistance ParameterDict ParameterList PixelShuffle
    PixelUnshuffle PoissonNLLLoss RMSNorm RNN RNNBase RNNCell RNNCellBase ReflectionPad1d ReflectionPad2d
    ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d Sequential SmoothL1Loss SoftMarginLoss
    SyncBatchNorm Transformer TransformerDecoder TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer
    TripletMarginLoss TripletMarginWithDistanceLoss Unflatten Unfold Upsample UpsamplingBilinear2d
    UpsamplingNearest2d ZeroPad1d ZeroPad2d ZeroPad3d
""".split()
OPERATIONS = """
    Conv2dNormActivation Conv3dNormActivation DeformConv2d DropBlock2d DropBlock3d FeaturePyramidNetwork
    FrozenBatchNorm2d MLP MultiScaleRoIAlign PSRoIAlign PSRoIPool Permute RoIAlign RoIPool SqueezeExcitation
    StochasticDepth
""".split()

# prefix in a graph -> the package, and the names of its classes
LIBRARIES = {
    "nn.": ("torch.nn", frozenset((*ACTIVATIONS, *OTHERS))),
    "torchvision.ops.": ("torchvision.ops", frozenset(OPERATIONS)),
}


def library_names() -> list[str]:
    """Return every name as a graph writes it: nn.Upsample, torchvision.ops.MLP, ..."""
    return [prefix + name for prefix, (_, names) in LIBRARIES.items() for name in sorted(names)]


def library_class(name: str) -> type | None:
    """Return the class that a name such as nn.Upsample means; None for a name that is in no list.

    A package is imported when one of its classes is asked for: torchvision's import takes as long as torch's own.
    """
    for prefix, (package, names) in LIBRARIES.items():
        short = name.removeprefix(prefix)
        if short != name and short in names:
            return getattr(import_module(package), short, None)
    return None
