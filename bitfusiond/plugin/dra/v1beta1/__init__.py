"""Generated from ``proto/bitfusiond/plugin/dra/v1beta1/api.proto`` by ``just proto``."""
