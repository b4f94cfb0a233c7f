using System.CommandLine;
using System.Globalization;
using Native.Scheduling;
using Native.Server.Tenancy;

namespace Native.Tools;

/// <summary><c>tenants</c>: tenants, as <c>--tenants</c> of the server reads them.</summary>
internal sealed class TenantsCommand : Command
{
    public TenantsCommand(Terminal terminal)
        : base("tenants", "Checks tenants.") => Add(new TenantsCheckCommand(terminal));
}

/// <summary><c>tenants check</c>: what a file of tenants says. Their keys are counted, never told.</summary>
internal sealed class TenantsCheckCommand : ToolCommand
{
    private readonly Argument<string> _file = new("FILE")
    {
        Description = "The tenants, in YAML. An example:\n\n" + TenantFile.Example,
    };

    public TenantsCheckCommand(Terminal terminal)
        : base(terminal, "check", "Says what is wrong with tenants, or what each may have.",
            "tenants check tenants.yml") => Add(_file);

    protected override Task<int> RunAsync(ParseResult arguments)
    {
        foreach ((TenantSpec spec, IReadOnlyList<string> keys) in TenantFile.Read(arguments.GetRequiredValue(_file)))
        {
            Terminal.Out.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{spec.Name}: weight {spec.Weight}; {Quota(spec.RequestsPerMinute, "requests")}; "
                    + $"{Quota(spec.TokensPerMinute, "tokens")}; API keys: {keys.Count}"));
        }
        return Task.FromResult(Cli.Success);
    }

    private static string Quota(int? most, string of) => most is null ? $"any number of {of}"
        : string.Create(CultureInfo.InvariantCulture, $"{most} {of} a minute");
}
