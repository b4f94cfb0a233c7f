using System.Reflection;

namespace Native.Server.Serving;

/// <summary>What this build calls itself.</summary>
internal static class ServerInfo
{
    public static string Version { get; } =
        (typeof(ServerInfo).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion
            ?? "0").Split('+')[0];

    /// <summary>OpenAI's <c>system_fingerprint</c>: names what computed an answer.</summary>
    public static string Fingerprint { get; } = $"native-{Version}";
}
