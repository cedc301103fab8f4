// Package kubernetes stands in for Prometheus' discovery by Kubernetes' API while promtool is built:
// our prometheus.yml does not use it, and what it imports is over a third of what would be compiled.
// A configuration that does use it is refused: nothing registers it.
package kubernetes

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"

	"github.com/prometheus/prometheus/discovery"
)

// SDConfig has what promtool looks at.
type SDConfig struct {
	HTTPClientConfig config.HTTPClientConfig
}

// Name of the mechanism.
func (*SDConfig) Name() string { return "kubernetes" }

// NewDiscoverer refuses.
func (*SDConfig) NewDiscoverer(discovery.DiscovererOptions) (discovery.Discoverer, error) {
	return nil, errors.New("discovery by Kubernetes was left out of this build")
}

// NewDiscovererMetrics has none.
func (*SDConfig) NewDiscovererMetrics(
	prometheus.Registerer, discovery.RefreshMetricsInstantiator,
) discovery.DiscovererMetrics {
	return nil
}
