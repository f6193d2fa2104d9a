"""The models, drop-in for torchvision's and timm's: names, arguments, state dicts, weights.

`list_models()` names them; a builder of each is here too: `torchext.models.resnet50()`.
"""

from . import alexnet as alexnet
from . import classic as classic
from . import deit as deit
from . import googlenet as googlenet
from . import inception as inception
from . import lenet as lenet
from . import mobilenet as mobilenet
from . import mobilenet_v2 as mobilenet_v2
from . import mobilenet_v3 as mobilenet_v3
from . import perceptrons as perceptrons
from . import plain as plain
from . import resnet as resnet
from . import swin as swin
from . import vgg as vgg
from . import vit as vit
from ._initialise import initialise as initialise
from ._registry import builders as _builders
from ._registry import get_model as get_model
from ._registry import get_model_builder as get_model_builder
from ._registry import get_model_weights as get_model_weights
from ._registry import get_weight as get_weight
from ._registry import list_models as list_models
from ._weights import Weights as Weights
from ._weights import WeightsEnum as WeightsEnum
from .alexnet import AlexNet as AlexNet
from .charlm import CharLM as CharLM
from .charlm import CharVocabulary as CharVocabulary
from .googlenet import GoogLeNet as GoogLeNet
from .googlenet import GoogLeNetOutputs as GoogLeNetOutputs
from .image_text import ImageText as ImageText
from .inception import Inception as Inception
from .inception import InceptionNaive as InceptionNaive
from .mobilenet import MobileNetV1 as MobileNetV1
from .mobilenet_v2 import MobileNetV2 as MobileNetV2
from .mobilenet_v3 import MobileNetV3 as MobileNetV3
from .recurrent import Captioner as Captioner
from .recurrent import Seq2Seq as Seq2Seq
from .recurrent import SequenceClassifier as SequenceClassifier
from .recurrent import Tagger as Tagger
from .vgg import VGG as VGG

globals().update(_builders)
globals().update({b.weights.__name__: b.weights for b in _builders.values() if b.weights})
