using Native.Server.Grpc;
using Native.Server.Http;
using Native.Server.OpenAi;

namespace Native.Server;

/// <summary>What the server speaks. A new protocol is a folder and a line here.</summary>
internal static class Protocols
{
    /// <summary>All of them. A request is the first one's that speaks it, and the last one's where none does.</summary>
    public static readonly IReadOnlyList<IProtocol> All = [new GrpcProtocol(), new OpenAiProtocol()];
}
