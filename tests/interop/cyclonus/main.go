// Command verdicts lets cyclonus judge packets: a cluster and its packets as one line of JSON on standard input, a
// verdict for each packet as one line of JSON on standard output, until the input ends.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
)

// question is a cluster as its API server knows it, and packets of it.
type question struct {
	Namespaces []core.Namespace            `json:"namespaces"`
	Pods       []core.Pod                  `json:"pods"`
	Policies   []*networking.NetworkPolicy `json:"policies"`
	Packets    []packet                    `json:"packets"`
}

// packet is the first one of a flow.
type packet struct {
	Source      end `json:"source"`
	Destination end `json:"destination"`
	// Protocol is TCP, UDP, SCTP or ICMP.
	Protocol core.Protocol `json:"protocol"`
	// Port is the destination's; 0 for ICMP.
	Port int `json:"port"`
}

// end is a pod ("namespace/name") with its address, or the address of nobody in the cluster.
type end struct {
	Pod     string `json:"pod"`
	Address string `json:"address"`
}

// verdict says which end lets a packet pass.
type verdict struct {
	Egress  bool `json:"egress"`
	Ingress bool `json:"ingress"`
}

// cluster is what cyclonus has to be told with each packet.
type cluster struct {
	namespaces map[string]map[string]string
	pods       map[string]core.Pod
	policy     *matcher.Policy
}

func main() {
	input, output := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for input.More() {
		var asked question
		if err := input.Decode(&asked); err != nil {
			fail(err)
		}
		if err := output.Encode(judge(&asked)); err != nil {
			fail(err)
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "verdicts:", err)
	os.Exit(1)
}

func judge(asked *question) []verdict {
	known := cluster{
		namespaces: map[string]map[string]string{},
		pods:       map[string]core.Pod{},
		// Not simplified: cyclonus only does that to print less.
		policy: matcher.BuildNetworkPolicies(false, asked.Policies),
	}
	for _, namespace := range asked.Namespaces {
		known.namespaces[namespace.Name] = namespace.Labels
	}
	for _, pod := range asked.Pods {
		known.pods[pod.Namespace+"/"+pod.Name] = pod
	}
	verdicts := make([]verdict, 0, len(asked.Packets))
	for _, packet := range asked.Packets {
		verdicts = append(verdicts, known.verdict(packet))
	}
	return verdicts
}

// verdict asks once for each name that the port has on the destination: cyclonus takes one, and a rule that allows any
// of them allows the packet.
func (known *cluster) verdict(packet packet) verdict {
	var found verdict
	for _, name := range known.portNames(packet) {
		result := known.policy.IsTrafficAllowed(&matcher.Traffic{
			Source:           known.peer(packet.Source),
			Destination:      known.peer(packet.Destination),
			ResolvedPort:     packet.Port,
			ResolvedPortName: name,
			Protocol:         packet.Protocol,
		})
		found.Egress = found.Egress || result.Egress.IsAllowed()
		found.Ingress = found.Ingress || result.Ingress.IsAllowed()
	}
	return found
}

// portNames are those of the packet's port on its destination; one empty name where it has none.
func (known *cluster) portNames(packet packet) []string {
	var names []string
	for _, container := range known.pods[packet.Destination.Pod].Spec.Containers {
		for _, port := range container.Ports {
			if port.Name != "" && int(port.ContainerPort) == packet.Port && port.Protocol == packet.Protocol {
				names = append(names, port.Name)
			}
		}
	}
	if len(names) == 0 {
		return []string{""}
	}
	return names
}

func (known *cluster) peer(end end) *matcher.TrafficPeer {
	pod, found := known.pods[end.Pod]
	if !found {
		return &matcher.TrafficPeer{IP: end.Address}
	}
	return &matcher.TrafficPeer{
		IP: end.Address,
		Internal: &matcher.InternalPeer{
			PodLabels:       pod.Labels,
			NamespaceLabels: known.namespaces[pod.Namespace],
			Namespace:       pod.Namespace,
		},
	}
}
