"""Quantizers: each decides one kind of grid."""

from stillbit.quantizers.base import Quantizer as Quantizer
from stillbit.quantizers.lsq import LSQ as LSQ
from stillbit.quantizers.minmax import FixedRange as FixedRange
from stillbit.quantizers.product import ProductSite as ProductSite
from stillbit.quantizers.site import ParameterSite as ParameterSite
from stillbit.quantizers.site import SliceSite as SliceSite
from stillbit.quantizers.site import WeightSite as WeightSite
from stillbit.quantizers.site import weight_sites as weight_sites
from stillbit.quantizers.statsq import StatsQ as StatsQ
from stillbit.quantizers.tied import TiedQuantizer as TiedQuantizer
