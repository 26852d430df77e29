"""What servers, local volumes and moves take of hosts: one sum to show or place by."""

HOSTS_WITH_USAGE = """
SELECT hosts.*, ifnull(used.servers, 0) AS servers, ifnull(used.builds, 0) AS builds,
       ifnull(used.vcpus, 0) + ifnull(claimed.vcpus, 0) AS vcpus_used,
       ifnull(used.ram_mb, 0) + ifnull(claimed.ram_mb, 0) AS ram_mb_used,
       ifnull(used.disk_gb, 0) + ifnull(kept.disk_gb, 0) + ifnull(claimed.disk_gb, 0)
         AS disk_gb_used
FROM hosts LEFT JOIN (
  SELECT host_id, count(*) AS servers, sum(vm_state = 'building') AS builds,
         sum(vcpus) AS vcpus, sum(ram_mb) AS ram_mb,
         sum(disk_gb + ephemeral_gb + (swap_mb + 1023) / 1024) AS disk_gb
  FROM servers WHERE deleted_at IS NULL AND host_id IS NOT NULL GROUP BY host_id
) AS used ON used.host_id = hosts.id
LEFT JOIN (
  SELECT host_id, sum(size_gb) AS disk_gb FROM (
    SELECT host_id, size_gb FROM volumes
      WHERE deleted_at IS NULL AND host_id IS NOT NULL AND type_id IS NULL
    UNION ALL SELECT host_id, size_gb FROM volume_snapshots
      WHERE deleted_at IS NULL AND type_id IS NULL
  ) GROUP BY host_id
) AS kept ON kept.host_id = hosts.id
LEFT JOIN (
  SELECT claim_host_id AS host_id, sum(vcpus) AS vcpus, sum(ram_mb) AS ram_mb,
         sum(disk_gb) AS disk_gb
  FROM migrations WHERE claim_host_id IS NOT NULL GROUP BY claim_host_id
) AS claimed ON claimed.host_id = hosts.id
"""
"""Host rows with ``servers``, ``builds`` (those that are being built), ``vcpus_used``,
``ram_mb_used`` and ``disk_gb_used``; add a WHERE."""
